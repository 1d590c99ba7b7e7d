"""Give back on average what removed channels contributed: their means, folded into biases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pruning.graph import ChannelGraph, Keep
from pruning.reconstruction.filters import Filter, by_taps


@torch.no_grad()
def fold_means(
    slim: nn.Module,
    whole: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    means: Mapping[str, np.ndarray],
    norms: Mapping[str, str],
) -> None:
    """Add W·E[x] of the removed inputs to every layer that read some, in place on `slim`.

    `slim` is `cut(whole, graph, keep)`. means: float64 [inputs, taps] by weight name, of the whole
    network's patches; norms: by weight name the BN that alone reads the layer's output. A layer
    without a bias changes that BN's mean, or gets a bias.
    """
    kept = graph.kept_units(keep)
    state = dict(whole.named_parameters())
    for layer in graph.layers:
        name = layer.weight
        gone = np.flatnonzero(~kept[graph.axes[name, layer.read]])
        if len(gone) and name in means:
            rows = graph.kept_positions(name, layer.written, kept)
            weight = Filter.of_layer(layer).turned(state[name].detach().cpu().double())
            lost = by_taps(weight)[rows][..., gone]
            lost = torch.einsum("okc,ck->o", lost, torch.from_numpy(means[name])[gone])
            add_to_output(slim, layer.name, lost, norms.get(name))


def add_to_output(slim: nn.Module, layer: str, lost: Tensor, norm: str | None) -> None:
    """Raise an output by `lost` [rows]: by its bias, else the BN after it, else a new bias."""
    module = slim.get_submodule(layer)
    bias = module.bias
    value = lost.to(module.weight)  # type: ignore[arg-type]
    if bias is not None:
        bias.add_(value)
    elif norm is not None:
        # the BN subtracts its mean: a lower one is a higher input
        slim.get_submodule(norm).running_mean.sub_(value)
    else:
        module.bias = nn.Parameter(value)
