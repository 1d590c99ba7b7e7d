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

    float64 [units]; shared weights count once.
    """
    state = model.state_dict()
    total = np.zeros(graph.units)
    for name in dict.fromkeys(layer.weight for layer in graph.layers):
        weight = state[name].detach().to(torch.float64).abs().pow(power)
        rows = weight.movedim(axis, 0).flatten(1).sum(1).cpu().numpy()
        total += per_unit(graph, name, axis, rows)
    return total


def weight_counts(graph: ChannelGraph, axis: int) -> np.ndarray:
    """Weights per unit along an axis of the layers' weights, float64 [units]."""
    total = np.zeros(graph.units)
    for name in dict.fromkeys(layer.weight for layer in graph.layers):
        shape = graph.shapes[name]
        each = float(np.prod(shape, dtype=np.int64) // shape[axis])
        total += per_unit(graph, name, axis, np.full(shape[axis], each))
    return total
