"""Patches: what each output position of a convolution or linear layer reads, row by row.

One layout of weights goes with them (`Filter.blocks`): columns as patches have them, the channel
runs fastest. Convolutions of one, two and three dimensions alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

POSITIONS = 64
"""Output positions per image that count: neighbouring ones say nearly the same."""

Sides = tuple[int, ...]
GOLDEN = 0.6180339887498949
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Filter:
    """How one layer reads its input; a linear layer is a filter of kernel ()."""

    kernel: Sides
    stride: Sides = (1, 1)
    padding: Sides | str = (0, 0)
    dilation: Sides = (1, 1)
    groups: int = 1

    @classmethod
    def of_call(
        cls,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Filter:
        """From the arguments of F.linear or of a convolution."""
        sides = max(weight.ndim - 2, 0)
        where = padding if isinstance(padding, str) else _each(padding, sides)
        return cls(
            tuple(weight.shape[2:]), _each(stride, sides), where, _each(dilation, sides), groups
        )

    @property
    def channel_dim(self) -> int:
        """The dimension of an input or output that its channels lie along."""
        return 1 if self.kernel else -1

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer itself; the weight's shape says how many channels a block reads."""
        if not self.kernel:
            return F.linear(x, weight, bias)
        groups = x.shape[1] // weight.shape[1]
        convolution = CONVOLUTIONS[len(self.kernel)]
        made: Tensor = convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, groups
        )
        return made

    def blocks(self, weight: Tensor) -> Tensor:
        """Weight [o, i, *kernel] as [blocks, o/blocks, d], columns as `patches` has them."""
        if not self.kernel:
            return weight[None]
        return by_taps(weight).reshape(self.groups, len(weight) // self.groups, -1)

    def weight(self, blocks: Tensor) -> Tensor:
        """The inverse of `blocks`."""
        if not self.kernel:
            return blocks[0]
        flat = blocks.reshape(-1, *self.kernel, blocks.shape[-1] // math.prod(self.kernel))
        return flat.movedim(-1, 1).contiguous()


def by_taps(weight: Tensor) -> Tensor:
    """A weight [o, i, *kernel] as [o, taps, i], the order in which patches are read."""
    return weight.flatten(2).mT if weight.ndim > 2 else weight[:, None]


def patches(x: Tensor, how: Filter, every: Sides = (1, 1), phase: int = 0) -> Tensor:
    """What each output position reads: [blocks, images · positions, kernel · channels].

    The channel runs fastest. every: take each such row and column of the output positions, from
    an offset that `phase` moves.
    """
    if not how.kernel:
        return x.reshape(1, -1, x.shape[-1])
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
    return tuple(min(step, side) for side in sides)


LAYER_CALLS: Mapping[Any, str] = {
    F.linear: "linear",
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), "conv"),
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), "conv"),
}


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
    return [side for p in reversed(how.padding) for side in (p, p)]


def _each(value: Any, sides: int) -> Sides:
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * sides if len(given) == 1 else given
