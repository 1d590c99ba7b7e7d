"""Moments of what layers read, each channel alone: its variance after filtering, its mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pruning.data import Batch
from pruning.graph import ChannelGraph
from pruning.importance.magnitude import per_unit
from pruning.reconstruction import POSITIONS, Filter, by_taps, layers_called, patches, thinning
from pruning.training import evaluation_mode

CHUNK = 32  # images at a time: patches are taps times as large as what they are read from


@dataclass(frozen=True)
class ChannelMoments:
    """Of the patches that one weight reads, zero padding included, each channel alone.

    mean: float64 [taps, channels]; covariance: float64 [taps, taps, channels].
    """

    mean: np.ndarray
    covariance: np.ndarray


@torch.no_grad()
def channel_moments(
    model: nn.Module, graph: ChannelGraph, batches: Sequence[Batch], positions: int = POSITIONS
) -> dict[str, ChannelMoments]:
    """Moments by weight name for all 2-d convolutions and linear layers that read a group.

    `pruning.reconstruction.filters.input_moments` has them across channels too, which takes
    channels times the memory. positions: about how many per image count.
    """
    names = [layer.weight for layer in graph.layers]
    reads = {name for name in names if (graph.axes[name, 1] < graph.units).any()}
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}
    phase = 0

    def add(name: str, x: Tensor, y: Tensor, how: Filter) -> None:
        taps = int(np.prod(how.kernel, dtype=np.int64))
        rows = patches(x.double(), how, thinning(y, how, positions), phase)[0]
        rows = rows.reshape(len(rows), taps, -1)
        own = len(rows), rows.sum(0), torch.einsum("nkc,nlc->klc", rows, rows)
        count, first, second = sums.get(name, (0, torch.zeros_like(own[1]), 0))
        sums[name] = (count + own[0], first + own[1], second + own[2])

    with evaluation_mode(model), layers_called(model, reads, add):
        for x, _ in batches:
            for part in x.split(CHUNK):
                model(part)
                phase += 1
    found = {}
    for name, (count, first, second) in sums.items():
        mean = first / count
        covariance = second / count - mean[:, None] * mean
        found[name] = ChannelMoments(mean.cpu().numpy(), covariance.cpu().numpy())
    return found


def filtered_variance(
    model: nn.Module, graph: ChannelGraph, moments: Mapping[str, ChannelMoments]
) -> np.ndarray:
    """Σ_consumers Σ_o w_{o,c}ᵀ Cov(patch_c) w_{o,c} per unit, float64 [units]."""
    state = dict(model.named_parameters())
    total = np.zeros(graph.units)
    for name, each in moments.items():
        weight = by_taps(state[name].detach().cpu().double())
        spread = torch.einsum("okc,klc->olc", weight, torch.from_numpy(each.covariance))
        variance = (spread * weight).sum((0, 1)).clamp(min=0)
        total += per_unit(graph, name, 1, variance.numpy())
    return total
