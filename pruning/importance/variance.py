"""Moments of what layers read, each channel alone: its variance after filtering, its mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.data import Samples, call
from pruning.graph import ChannelGraph
from pruning.importance.magnitude import per_unit
from pruning.reconstruction import (
    POSITIONS,
    Filter,
    Moments,
    Sums,
    by_taps,
    layers_called,
    patches,
    thinning,
)
from pruning.training import evaluation_mode

CHUNK = 32  # images at a time: patches are taps times as large as what they are read from


@torch.no_grad()
def channel_moments(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any] | Samples,
    positions: int = POSITIONS,
) -> dict[str, Moments]:
    """Moments by weight name for all 2-d convolutions and linear layers that read a group.

    A block a channel: mean_x [channels, taps], xx [channels, taps, taps], zero padding included;
    no targets. `pruning.reconstruction.input_moments` has them across channels too, which takes
    channels times the memory. positions: about how many per image count.
    """
    sums: dict[str, Sums] = {}
    phase = 0

    def add(name: str, x: Tensor, y: Tensor, how: Filter) -> None:
        taps = int(np.prod(how.kernel, dtype=np.int64))
        rows = patches(x.double(), how, thinning(y, how, positions), phase)[0]
        rows = rows.reshape(len(rows), taps, -1).permute(2, 0, 1)
        sums.setdefault(name, Sums()).add(rows, rows[..., :0])

    with evaluation_mode(model), layers_called(model, graph.readers(), add):
        for inputs in Samples.of(batches).inputs:
            for part in inputs.split(CHUNK) if isinstance(inputs, Tensor) else (inputs,):
                call(model, part)
                phase += 1
    return {name: each.moments() for name, each in sums.items()}


def filtered_variance(
    model: nn.Module, graph: ChannelGraph, moments: Mapping[str, Moments]
) -> np.ndarray:
    """Σ_consumers Σ_o w_{o,c}ᵀ Cov(patch_c) w_{o,c} per unit, float64 [units]."""
    state = dict(model.named_parameters())
    total = np.zeros(graph.units)
    for layer in graph.layers:
        if (name := layer.weight) not in moments:
            continue
        each = moments[name]
        weight = by_taps(Filter.of_layer(layer).turned(state[name].detach().cpu().double()))
        spread = torch.einsum("okc,ckl->olc", weight, each.xx.cpu())
        variance = (spread * weight).sum((0, 1)).clamp(min=0)
        total += per_unit(graph, name, layer.read, variance.numpy())
    return total
