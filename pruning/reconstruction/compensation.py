"""Single layers of a cut network that make up for removed inputs: refitted, or by their means."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pruning.graph import ChannelGraph, Keep
from pruning.reconstruction.filters import Filter, by_taps
from pruning.reconstruction.least_squares import compensate
from pruning.reconstruction.moments import Moments


@torch.no_grad()
def compensate_layers(
    slim: nn.Module,
    whole: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    moments: Mapping[str, Moments],
    norms: Mapping[str, str],
) -> None:
    """Let every layer of `moments` (by weight name) make up for the inputs that `keep` took.

    In place on `slim` = cut(whole, graph, keep). Grouped convolutions stay as they are. norms: by
    weight name the BN that alone reads the layer's output. As CaP does (arXiv 2108.13728).
    """
    kept = graph.kept_units(keep)
    given, own = dict(whole.named_parameters()), dict(slim.named_parameters())
    for layer in graph.layers:
        name = layer.weight
        if name not in moments or layer.conv_groups > 1:
            continue
        each, how = moments[name], Filter.of_layer(layer, graph.shapes[name][2:])
        # fewer rows where it writes a group that was cut, too
        blocks: Tensor = how.blocks(how.turned(given[name].detach().to(each.xx)))[0]
        blocks = blocks[graph.kept_positions(name, layer.written, kept)]
        stays = np.tile(kept[graph.axes[name, layer.read]], layer.kernel)
        fitted, bias = compensate(
            blocks,
            blocks.new_zeros(len(blocks)),
            each.mean_x[0],
            each.xx[0],
            torch.from_numpy(np.flatnonzero(stays)).to(blocks.device),
        )
        own[name].copy_(how.turned(how.weight(fitted[None])))
        add_to_output(slim, layer.name, bias, norms.get(name))


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
