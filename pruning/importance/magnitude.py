"""Sums of a network's weights per unit: magnitudes that several methods rank channels by."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pruning.graph import ChannelGraph


def per_unit(graph: ChannelGraph, tensor: str, axis: int, values: np.ndarray) -> np.ndarray:
    """Sum of `values` (float [positions] of a tensor axis) over each unit, float64 [units]."""
    units = graph.axes[tensor, axis]
    return np.bincount(units, weights=values, minlength=graph.units + 1)[:-1]


def weight_sums(model: nn.Module, graph: ChannelGraph, axis: int, power: int) -> np.ndarray:
    """Σ|w|^power per unit over the rows it writes (axis 0) or the slices that read it (axis 1).

    float64 [units]; shared weights count once. The axes of a transposed convolution's weight are
    the other way round; `axis` means what it writes and reads all the same.
    """
    state = model.state_dict()
    total = np.zeros(graph.units)
    for name, own in _axes(graph, axis).items():
        weight = state[name].detach().to(torch.float64).abs().pow(power)
        rows = weight.movedim(own, 0).flatten(1).sum(1).cpu().numpy()
        total += per_unit(graph, name, own, rows)
    return total


def weight_counts(graph: ChannelGraph, axis: int) -> np.ndarray:
    """Weights per unit that its layers write it with (axis 0) or read it with (axis 1)."""
    total = np.zeros(graph.units)
    for name, own in _axes(graph, axis).items():
        shape = graph.shapes[name]
        each = float(np.prod(shape, dtype=np.int64) // shape[own])
        total += per_unit(graph, name, own, np.full(shape[own], each))
    return total


def _axes(graph: ChannelGraph, axis: int) -> dict[str, int]:
    """By weight the axis of the channels written (0) or read (1)."""
    return {layer.weight: (layer.written, layer.read)[axis] for layer in graph.layers}
