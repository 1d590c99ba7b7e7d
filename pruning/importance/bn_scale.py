"""BN scales per unit: how strongly a network itself lets each channel through."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.graph import ChannelGraph
from pruning.importance.magnitude import per_unit, weight_sums


def bn_scales(model: nn.Module, graph: ChannelGraph) -> np.ndarray:
    """Σ|γ| per unit over all BNs that its channels pass, float64 [units].

    A group without BN (or with BNs that have no scale) falls back to the L2 norms of its filters,
    rescaled to the mean of all scales (1 if there is none): its channels are ranked among each
    other, and the group counts as an average one.
    """
    total, found = np.zeros(graph.units), np.zeros(graph.units, dtype=bool)
    for path, module in model.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, _BatchNorm) and (name, 0) in graph.axes and module.affine:
            scale = module.weight.detach().to(torch.float64).abs().cpu().numpy()
            total += per_unit(graph, name, 0, scale)
            found[np.setdiff1d(graph.axes[name, 0], [graph.units])] = True
    if found.all():
        return total
    typical = float(total[found].mean()) if found.any() else 1.0
    norms = np.sqrt(weight_sums(model, graph, axis=0, power=2))
    for start, end in zip(graph.offsets[:-1], graph.offsets[1:], strict=True):
        if not found[start:end].all():
            mean = float(norms[start:end].mean())
            total[start:end] = typical * (norms[start:end] / mean if mean > 0 else 1.0)
    return total
