"""Patches that layers read, and the covariances of what they read and write; float64 sums."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pruning.data import Batches
from pruning.errors import UserError
from pruning.graph import ChannelGraph
from pruning.reconstruction.least_squares import Moments
from pruning.training import evaluation_mode

POSITIONS = 64
"""Output positions per image that count: neighbouring ones say nearly the same."""


@dataclass(frozen=True)
class Filter:
    """How one layer reads its input; a linear layer is a filter of kernel ()."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] | str = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
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
        """From the arguments of F.linear or F.conv2d."""
        where = padding if isinstance(padding, str) else _two(padding)
        return cls(tuple(weight.shape[2:]), _two(stride), where, _two(dilation), groups)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer itself; the weight's shape says how many channels a block reads."""
        if not self.kernel:
            return F.linear(x, weight, bias)
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def blocks(self, weight: Tensor) -> Tensor:
        """Weight [o, i, *kernel] as [blocks, o/blocks, d], columns as `patches` has them."""
        if not self.kernel:
            return weight[None]
        count = self.groups
        return weight.permute(0, 2, 3, 1).reshape(count, len(weight) // count, -1)

    def weight(self, blocks: Tensor) -> Tensor:
        """The inverse of `blocks`."""
        if not self.kernel:
            return blocks[0]
        flat = blocks.reshape(-1, *self.kernel, blocks.shape[-1] // _product(self.kernel))
        return flat.permute(0, 3, 1, 2).contiguous()


def patches(x: Tensor, how: Filter, every: tuple[int, int] = (1, 1), phase: int = 0) -> Tensor:
    """What each output position reads: [blocks, images · positions, kernel · channels].

    The channel runs fastest. every: take each such row and column of the output positions, from
    an offset that `phase` moves.
    """
    if not how.kernel:
        return x.reshape(1, -1, x.shape[-1])
    x = F.pad(x, _sides(how))
    start, count = _grid(x, how, every, phase)
    top, left = start[0] * how.stride[0], start[1] * how.stride[1]
    step = tuple(e * s for e, s in zip(every, how.stride, strict=True))
    x = x.permute(0, 2, 3, 1)
    if not x.is_contiguous():
        x = x.contiguous()
    images, height, width, channels = x.shape
    view = x[:, top:, left:].as_strided(
        (images, *count, *how.kernel, channels),
        (
            height * width * channels,
            step[0] * width * channels,
            step[1] * channels,
            how.dilation[0] * width * channels,
            how.dilation[1] * channels,
            1,
        ),
    )
    if how.groups == 1:
        return view.reshape(1, -1, _product(how.kernel) * channels)
    view = view.unflatten(-1, (how.groups, -1)).movedim(-2, 0)
    return view.reshape(how.groups, images * count[0] * count[1], -1)


def outputs(
    y: Tensor, how: Filter, every: tuple[int, int] = (1, 1), phase: int = 0, groups: int = 1
) -> Tensor:
    """A layer's output at the same positions as `patches`: [blocks, images · positions, c]."""
    if how.kernel:
        start = _offsets(every, phase)
        y = y[:, :, start[0] :: every[0], start[1] :: every[1]].permute(0, 2, 3, 1)
    return y.reshape(-1, groups, y.shape[-1] // groups).movedim(1, 0)


def taps_of(weight: Tensor) -> Tensor:
    """A weight as float64 [outputs, inputs, taps] on the CPU."""
    return weight.detach().cpu().double().reshape(*weight.shape[:2], -1)


def thinning(y: Tensor, how: Filter, positions: int = POSITIONS) -> tuple[int, int]:
    """Which rows and columns of an output to take for about `positions` of them per image."""
    if not how.kernel:
        return (1, 1)
    step = max(1, round((y.shape[2] * y.shape[3] / positions) ** 0.5))
    return (min(step, y.shape[2]), min(step, y.shape[3]))


class Sums:
    """Running sums for `Moments`; products in the data's precision, sums in float64.

    Values are taken relative to the first batch's mean, so that float32 products do not cancel.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor, *, with_xx: bool = True) -> None:
        """x: [..., n, d], y: [..., n, c]. UserError where no memory holds Σ."""
        if not self.count:
            _check_size(x)
            self.x0, self.y0 = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
        x, y = x - self.x0, y - self.y0
        parts = [x.sum(-2), y.sum(-2), y.mT @ x, y.square().sum(-2)]
        if with_xx:
            parts.append(x.mT @ x)
        parts = [part.double() for part in parts]
        if self.total:
            parts = [a.add_(b) for a, b in zip(self.total, parts, strict=True)]
        self.total = parts
        self.count += x.shape[-2]

    def moments(self, xx: Tensor | None = None) -> Moments:
        """The central moments; `xx` where it is known already."""
        x, y, xy, yy, *rest = [part / self.count for part in self.total]
        if xx is None:
            xx = rest[0] - x.unsqueeze(-1) * x.unsqueeze(-2)
        return Moments(
            count=self.count,
            mean_x=x + self.x0.squeeze(-2),
            mean_y=y + self.y0.squeeze(-2),
            xx=xx,
            xy=xy - y.unsqueeze(-1) * x.unsqueeze(-2),
            yy=yy - y.square(),
        )


def _check_size(x: Tensor) -> None:
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
    model: nn.Module, graph: ChannelGraph, batches: Batches, positions: int = POSITIONS
) -> dict[str, Moments]:
    """Moments of the patches and outputs of every layer that reads a group, by weight name.

    One pass in evaluation mode. All of Σ stays in memory: 8·d² bytes a layer.
    """
    names = [layer.weight for layer in graph.layers]
    reads = {name for name in names if (graph.axes[name, 1] < graph.units).any()}
    sums = {name: Sums() for name in names if name in reads}
    phase = 0

    def add(name: str, x: Tensor, y: Tensor, how: Filter) -> None:
        every = thinning(y, how, positions)
        sums[name].add(
            patches(x, how, every, phase), outputs(y, how, every, phase, groups=how.groups)
        )

    with evaluation_mode(model), _Calls(model, reads, add):
        for x, _ in batches:
            model(x)
            phase += 1
    return {name: each.moments() for name, each in sums.items() if each.count}


class _Calls(TorchFunctionMode):
    """Shows every use of the given weights: show(name, input, output, filter)."""

    def __init__(self, model: nn.Module, names: set[str], show: Callable[..., None]) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters() if name in names}
        self.show = show

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in LAYER_CALLS:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            if id(weight) in self.names:
                x = kwargs["input"] if "input" in kwargs else args[0]
                self.show(self.names[id(weight)], x, out, Filter.of_call(*args, **kwargs))
        return out


LAYER_CALLS: Mapping[Any, str] = {F.conv2d: "conv", F.linear: "linear", torch.conv2d: "conv"}


def _grid(
    x: Tensor, how: Filter, every: tuple[int, int], phase: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """First output position and number of positions taken, per side; x is padded."""
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], how.kernel, how.stride, how.dilation, strict=True)
    ]
    start = _offsets(every, phase)
    counts = [len(range(a, n, e)) for a, n, e in zip(start, sizes, every, strict=True)]
    return start, (counts[0], counts[1])


def _offsets(every: tuple[int, int], phase: int) -> tuple[int, int]:
    row = phase % every[0]
    return row, (row + phase // every[0]) % every[1]  # diagonals: few phases reach all borders


def _sides(how: Filter) -> list[int]:
    if isinstance(how.padding, str):
        if how.padding == "valid":
            return [0, 0, 0, 0]
        total = [d * (k - 1) for d, k in zip(how.dilation, how.kernel, strict=True)]
        return [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    return [side for p in reversed(how.padding) for side in (p, p)]


def _two(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _product(values: tuple[int, ...]) -> int:
    return values[0] * values[1]
