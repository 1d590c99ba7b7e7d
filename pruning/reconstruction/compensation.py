"""Single layers of a cut network, refitted from what the whole network reads there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pruning.graph import ChannelGraph, Keep
from pruning.reconstruction.filters import Filter
from pruning.reconstruction.least_squares import compensate
from pruning.reconstruction.mean_folding import add_to_output
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
