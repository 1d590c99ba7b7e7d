"""Moments of what layers read and write, over images; sums in float64."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn

from pruning.data import Samples, call, parts
from pruning.errors import UserError
from pruning.graph import ChannelGraph
from pruning.reconstruction import budget
from pruning.reconstruction.calls import layers_called
from pruning.reconstruction.filters import Filter
from pruning.reconstruction.rows import POSITIONS, outputs, patches, thinning
from pruning.reconstruction.shelf import Item, Shelf
from pruning.training import evaluation_mode


@dataclass(frozen=True)
class Moments:
    """First and second central moments of inputs x (d of them) and targets y (c of them).

    mean_x [..., d], mean_y [..., c], xx [..., d, d], xy [..., c, d], yy [..., c] (variances);
    all float64. count: rows they were taken over.
    """

    count: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor


class Sums:
    """Running sums for `Moments`; products in the data's precision, sums in float64.

    Values are taken relative to the first batch's mean, so that float32 products do not cancel.
    Rows wait until they are as many as the inputs: a product of few costs little more than its
    d² sums do, which are half of the work where layers are wide and images few.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: list[Tensor] = []
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """x: [..., n, d], y: [..., n, c]. UserError where no memory holds Σ."""
        if not self.count:
            check_size(x)
            self.x0, self.y0 = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
        self.waiting.append((x - self.x0, y - self.y0))
        self.count += x.shape[-2]
        if sum(rows.shape[-2] for rows, _ in self.waiting) >= x.shape[-1]:
            self._fold()

    def moments(self) -> Moments:
        """The central moments; the sums are spent by it."""
        self._fold()
        x, y, xy, yy, xx = (part.div_(self.count) for part in self.total)
        self.total = []
        return Moments(
            count=self.count,
            mean_x=x + self.x0.squeeze(-2),
            mean_y=y + self.y0.squeeze(-2),
            xx=_less(xx, x, x),
            xy=_less(xy, y, x),
            yy=yy - y.square(),
        )

    def _fold(self) -> None:
        if not self.waiting:
            return
        x, y = (torch.cat(rows, -2) for rows in zip(*self.waiting, strict=True))
        self.waiting = []
        parts = [x.sum(-2), y.sum(-2), y.mT @ x, y.square().sum(-2), x.mT @ x]
        if self.total:
            for total, part in zip(self.total, parts, strict=True):
                total.add_(part)
        else:
            self.total = [part.double() for part in parts]


def _less(sums: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """sums [..., i, j] − a bᵀ, in place."""
    flat = sums.view(math.prod(sums.shape[:-2]), *sums.shape[-2:])
    flat.baddbmm_(a.reshape(len(flat), -1, 1), b.reshape(len(flat), 1, -1), alpha=-1)
    return sums


def check_size(x: Tensor) -> None:
    """UserError where no memory holds the covariance of x [..., d]."""
    inputs = x.shape[-1]
    needed = 3 * 8 * inputs**2  # a product, the same in float64, and the sum
    if needed > _memory(x.device):
        raise UserError(
            f"a layer reads {inputs:,} inputs, whose covariance takes {needed / 1e9:.0f} GB; "
            "choose a method that measures none (uniform, l2-global, peel, cpmc or balanced) "
            "with repair none, and in a search seeds false"
        )


def _memory(device: torch.device) -> float:
    """Bytes of the GPU, or of this machine."""
    if device.type == "cuda" and torch.cuda.is_available():
        return float(torch.cuda.mem_get_info(device)[1])
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not on every system
        return math.inf


class _Shelved(Mapping[str, Moments]):
    """Moments by name; their matrices lie on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.found: dict[str, tuple[Moments, Item, Item]] = {}

    def put(self, name: str, each: Moments) -> None:
        none = each.xx.new_empty(0)
        items = self.shelf.put(each.xx), self.shelf.put(each.xy)
        self.found[name] = (replace(each, xx=none, xy=none), *items)

    def __getitem__(self, name: str) -> Moments:
        each, xx, xy = self.found[name]
        return replace(each, xx=xx.get(), xy=xy.get())

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


@torch.no_grad()
def input_moments(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any] | Samples,
    positions: int = POSITIONS,
    only: Collection[str] | None = None,
) -> Mapping[str, Moments]:
    """Moments of the patches and outputs of every layer that reads a group, by weight name.

    only: of these weights.

    In evaluation mode, 8·d² bytes a layer: one pass, or where the samples' workspace has no memory
    for all of Σ, several, some layers in each, and a file. UserError where it has none for one.
    """
    reads = graph.readers() if only is None else graph.readers() & set(only)
    samples = Samples.of(batches)
    names = list(dict.fromkeys(x.weight for x in graph.layers if x.weight in reads))
    room = samples.workspace.bytes  # no share of it: these are few and large, and have no holes
    beside, most = budget.measuring(graph, names)
    least = max(beside + most, budget.ordering(graph))
    budget.refuse("measuring", least, samples.workspace, "or see docs/data.md")
    passes = budget.passes(graph, names, room - beside)
    if len(passes) > 1:
        passes = budget.passes(graph, names, max(most, (room - beside) / 2))
        room -= beside + budget.largest(graph, passes)
    else:
        room -= budget.ordering(graph)
    found = _Shelved(Shelf(samples.workspace, room))
    for number, chosen in enumerate(passes):
        for name, sums in _sums(model, graph, samples, positions, chosen, number, len(passes)):
            found.put(name, sums.moments())
    return found


def _sums(
    model: nn.Module,
    graph: ChannelGraph,
    samples: Samples,
    positions: int,
    names: Collection[str],
    number: int,
    of: int,
) -> Iterator[tuple[str, Sums]]:
    """One pass, over the layers of these weights; their sums are given up one by one."""
    sums = {name: Sums() for name in names}
    phase = 0

    def add(name: str, x: Tensor, y: Tensor, how: Filter) -> None:
        every = thinning(y, how, positions)
        sums[name].add(
            patches(x, how, every, phase), outputs(y, how, every, phase, groups=how.groups)
        )

    batches = length_hint(samples.batches)
    with evaluation_mode(model), layers_called(model, names, add):
        for inputs in samples.inputs:
            for part in parts(inputs):
                call(model, part)
            phase += 1
            samples.workspace.step("measuring: batches", number * batches + phase, of * batches)
    for name in names:
        each = sums.pop(name)
        if each.count:
            yield name, each
