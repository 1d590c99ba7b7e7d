"""Moments of what layers read and write, over images; sums in float64."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.data import Samples, call
from pruning.errors import UserError
from pruning.graph import ChannelGraph
from pruning.reconstruction.calls import layers_called
from pruning.reconstruction.filters import Filter
from pruning.reconstruction.rows import POSITIONS, outputs, patches, thinning
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


@torch.no_grad()
def input_moments(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any] | Samples,
    positions: int = POSITIONS,
    only: Collection[str] | None = None,
) -> dict[str, Moments]:
    """Moments of the patches and outputs of every layer that reads a group, by weight name.

    only: of these weights.

    One pass in evaluation mode. All of Σ stays in memory: 8·d² bytes a layer.
    """
    reads = graph.readers() if only is None else graph.readers() & set(only)
    sums = {layer.weight: Sums() for layer in graph.layers if layer.weight in reads}
    phase = 0

    def add(name: str, x: Tensor, y: Tensor, how: Filter) -> None:
        every = thinning(y, how, positions)
        sums[name].add(
            patches(x, how, every, phase), outputs(y, how, every, phase, groups=how.groups)
        )

    with evaluation_mode(model), layers_called(model, reads, add):
        for inputs in Samples.of(batches).inputs:
            call(model, inputs)
            phase += 1
    return {name: each.moments() for name, each in sums.items() if each.count}
