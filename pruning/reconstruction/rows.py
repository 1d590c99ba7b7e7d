"""Patches: what each output position of a convolution or linear layer reads, row by row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.reconstruction.filters import Filter, Sides
from pruning.reconstruction.shelf import Kept, Shelf

POSITIONS = 64
"""Output positions per image that count: neighbouring ones say nearly the same."""

GOLDEN = 0.6180339887498949
SLAB, SLAB_VALUES = 8192, 2**24  # rows of a slab at most, and values of its x, at least d rows


@dataclass(frozen=True)
class Rows:
    """What a regression sees, in slabs of rows: x [blocks, n, d], goal and known [blocks, n, c].

    known: what is added to the prediction besides; None: nothing. Products of float32 are taken of
    a slab, and added up in float64.
    """

    x: Kept
    goal: Kept
    known: Kept | None

    @classmethod
    def gather(cls, parts: Iterable[list[Tensor]], shelf: Shelf) -> Rows:
        """parts: (x, goal) or (x, goal, known) of some rows each."""
        slabs = [[shelf.put(column) for column in slab] for slab in _slabs(parts)]
        x, goal, *known = map(Kept, zip(*slabs, strict=True))
        return cls(x, goal, known[0] if known else None)

    def slabs(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        known = [None] * len(self.x) if self.known is None else self.known
        return zip(self.x, self.goal, known, strict=True)


def slab_rows(blocks: int, inputs: int) -> int:
    return min(SLAB, max(inputs, SLAB_VALUES // (blocks * inputs)))


def _slabs(parts: Iterable[list[Tensor]]) -> Iterator[list[Tensor]]:
    waiting: list[list[Tensor]] = []
    for part in parts:
        waiting.append(part)
        blocks, _, inputs = part[0].shape
        if sum(each[0].shape[-2] for each in waiting) >= slab_rows(blocks, inputs):
            yield [torch.cat(each, -2) for each in zip(*waiting, strict=True)]
            waiting = []
    if waiting:
        yield [torch.cat(each, -2) for each in zip(*waiting, strict=True)]


def patches(x: Tensor, how: Filter, every: Sides = (1, 1), phase: int = 0) -> Tensor:
    """What each output position reads: [blocks, images · positions, kernel · channels].

    The channel runs fastest. every: take each such row and column of the output positions, from
    an offset that `phase` moves.
    """
    if not how.kernel:
        return x.reshape(1, -1, x.shape[-1])
    x = _stretched(x, how.stretch)
    sides = _sides(how)
    x = F.pad(x, sides) if any(sides) else x
    start, count = _grid(x, how, every, phase)
    x = x.movedim(1, -1).contiguous()
    for side, (first, stride) in enumerate(zip(start, how.stride, strict=True)):
        x = x.narrow(side + 1, first * stride, x.shape[side + 1] - first * stride)
    moves = x.stride()[1:-1]
    outer = [e * s * m for e, s, m in zip(every, how.stride, moves, strict=True)]
    inner = [d * m for d, m in zip(how.dilation, moves, strict=True)]
    channels = x.shape[-1]
    view = x.as_strided(
        (len(x), *count, *how.kernel, channels), (x.stride(0), *outer, *inner, x.stride(-1))
    )
    if how.groups == 1:
        return view.reshape(1, -1, math.prod(how.kernel) * channels)
    view = view.unflatten(-1, (how.groups, -1)).movedim(-2, 0)
    return view.reshape(how.groups, len(x) * math.prod(count), -1)


def outputs(
    y: Tensor, how: Filter, every: Sides = (1, 1), phase: int = 0, groups: int = 1
) -> Tensor:
    """A layer's output at the same positions as `patches`: [blocks, images · positions, c]."""
    if how.kernel:
        starts = _offsets(every, phase)
        taken = [slice(first, None, step) for first, step in zip(starts, every, strict=True)]
        y = y[:, :, *taken].movedim(1, -1)
    return y.reshape(-1, groups, y.shape[-1] // groups).movedim(1, 0)


def thinning(y: Tensor, how: Filter, positions: float = POSITIONS) -> Sides:
    """Which positions of an output to take, side by side, for about `positions` per image."""
    if not how.kernel:
        return (1, 1)
    sides = tuple(y.shape[2:])
    step = max(1, round((math.prod(sides) / positions) ** (1 / len(sides))))
    steps = [min(step, side) for side in sides]
    for i, stretch in enumerate(how.stretch):  # all remainders of the stride are to be met
        while math.gcd(steps[i], stretch) > 1:
            steps[i] += 1
    return tuple(steps)


def _stretched(x: Tensor, stretch: Sides) -> Tensor:
    """x with so many places for each value but the last, zeros after it."""
    if all(s == 1 for s in stretch):
        return x
    sides = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stretch, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *sides)
    wide[:, :, *(slice(None, None, s) for s in stretch)] = x
    return wide


def _grid(x: Tensor, how: Filter, every: Sides, phase: int) -> tuple[Sides, Sides]:
    """First output position and number of positions taken, per side; x is padded."""
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], how.kernel, how.stride, how.dilation, strict=True)
    ]
    start = _offsets(every, phase)
    counts = [len(range(a, n, e)) for a, n, e in zip(start, sizes, every, strict=True)]
    return start, tuple(counts)


def _offsets(every: Sides, phase: int) -> Sides:
    """Each once in prod(every) phases, in an order that spreads the first few evenly."""
    count = math.prod(every)
    stride = max(1, round(count * GOLDEN))
    while math.gcd(stride, count) > 1:
        stride += 1
    left, found = phase * stride % count, []
    for step in every:
        left, offset = divmod(left, step)
        found.append(offset)
    return tuple(found)


def _sides(how: Filter) -> list[int]:
    """What F.pad takes: two numbers a side, the last side first."""
    if isinstance(how.padding, str):
        if how.padding == "valid":
            return [0] * (2 * len(how.kernel))
        total = [d * (k - 1) for d, k in zip(how.dilation, how.kernel, strict=True)]
        return [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    extra = how.extra or (0,) * len(how.kernel)
    both = zip(how.padding, extra, strict=True)
    return [side for p, e in reversed(list(both)) for side in (p, p + e)]
