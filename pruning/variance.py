"""Moments of what layers read, each channel alone: its variance after filtering, its mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pruning.evaluation import evaluation_mode
from pruning.graph import ChannelGraph
from pruning.images import Batch
from pruning.scores import per_unit

LAYERS = {"conv2d", "linear"}
CHUNK = 32  # images at a time: patches are taps times as large as what they are read from


@dataclass(frozen=True)
class Moments:
    """Of the patches that one weight reads, zero padding included, each channel alone.

    mean: float64 [channels, taps]; covariance: float64 [channels, taps, taps].
    """

    mean: np.ndarray
    covariance: np.ndarray


def patch_moments(
    model: nn.Module, graph: ChannelGraph, batches: Sequence[Batch]
) -> dict[str, Moments]:
    """Moments by weight name for all 2-d convolutions and linear layers that read a group."""
    names = [layer.weight for layer in graph.layers]
    reading = [name for name in names if (graph.axes[name, 1] < graph.units).any()]
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def add(name: str, x: Tensor, weight: Tensor, options: tuple[Any, ...]) -> None:
        patches = _patches(x, weight, *options)
        first = patches.sum((0, 3))
        second = torch.einsum("bckl,bcml->ckm", patches, patches)
        count = patches.shape[0] * patches.shape[3]
        if name in sums:
            before = sums[name]
            count, first, second = before[0] + count, before[1] + first, before[2] + second
        sums[name] = (count, first, second)

    with evaluation_mode(model), torch.no_grad(), _Reads(model, reading, add):
        for x, _ in batches:
            for part in x.split(CHUNK):
                model(part)
    found = {}
    for name, (count, first, second) in sums.items():
        mean = first / count
        covariance = second / count - mean[:, :, None] * mean[:, None, :]
        found[name] = Moments(mean.cpu().numpy(), covariance.cpu().numpy())
    return found


def filtered_variance(
    model: nn.Module, graph: ChannelGraph, moments: Mapping[str, Moments]
) -> np.ndarray:
    """Σ_consumers Σ_o w_{o,c}ᵀ Cov(patch_c) w_{o,c} per unit, float64 [units]."""
    state = dict(model.named_parameters())
    total = np.zeros(graph.units)
    for name, each in moments.items():
        weight = taps(state[name])
        covariance = torch.from_numpy(each.covariance)
        variance = torch.einsum("ock,ckm,ocm->c", weight, covariance, weight)
        total += per_unit(graph, name, 1, variance.clamp(min=0).numpy())
    return total


def taps(weight: Tensor) -> Tensor:
    """A weight as float64 [outputs, inputs, taps] on the CPU."""
    return weight.detach().cpu().double().reshape(*weight.shape[:2], -1)


class _Reads(TorchFunctionMode):
    """Shows what the given weights are applied to: show(name, input, weight, conv options)."""

    def __init__(self, model: nn.Module, names: Sequence[str], show: Callable[..., None]) -> None:
        super().__init__()
        parameters = dict(model.named_parameters())
        self.names = {id(parameters[name]): name for name in names}
        self.show = show

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in LAYERS:
            x, weight, *options = _call(*args, **kwargs)
            if id(weight) in self.names:
                self.show(self.names[id(weight)], x, weight, tuple(options))
        return func(*args, **kwargs)


def _call(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:
    return input, weight, stride, padding, dilation


def _patches(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """What each tap of each channel reads: float64 [images, channels, taps, positions]."""
    if weight.ndim == 2:
        return x.double().reshape(-1, x.shape[-1])[:, :, None, None]
    kernel = weight.shape[2:]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(_pair(dilation), kernel, strict=True)]
        x = F.pad(x, [side for t in reversed(total) for side in (t // 2, t - t // 2)])
    where = 0 if isinstance(padding, str) else padding
    columns = F.unfold(x.double(), kernel, dilation, where, stride)
    return columns.view(len(x), x.shape[1], kernel.numel(), -1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
