"""The graph of a cut network, without tracing it: what is cut can be cut again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.parts import Layer


def narrowed(graph: ChannelGraph, keep: Keep, tensors: Collection[str] = ()) -> ChannelGraph:
    """The graph of `cut(model, graph, keep)`; its unit j of a group is the whole's keep[group][j].

    What `trace` would find in the cut network, but that groups of one unit stay groups. tensors:
    names of those that the network has now: a repair gives biases to layers that had none.
    """
    graph = _with_biases(graph, tensors)
    kept = graph.kept_units(keep)
    number = np.cumsum(kept) - 1  # of a unit that stays, and last of those that always do
    number[-1] = kept[:-1].sum()

    def left(units: np.ndarray) -> np.ndarray:
        return number[units[kept[units]]]

    axes = {place: left(units) for place, units in graph.axes.items()}
    shapes = {
        name: tuple(
            len(axes[name, axis]) if (name, axis) in axes else size
            for axis, size in enumerate(shape)
        )
        for name, shape in graph.shapes.items()
    }
    groups = tuple(
        replace(group, channels=len(units) * group.granularity)
        for group, units in zip(graph.groups, keep, strict=True)
    )
    layers = []
    for layer in graph.layers:
        blocks, out = layer.conv_groups, graph.shapes[layer.weight][0]
        if blocks > 1:
            blocks = blocks * shapes[layer.weight][0] // out
        layers.append(replace(layer, conv_groups=blocks))
    products = []
    for product in graph.products:
        sides = tuple(map(left, product.sides))
        macs = product.macs
        for before, after in zip(product.sides, sides, strict=True):
            macs = macs * len(after) // len(before)
        products.append(replace(product, macs=macs, sides=sides))
    return replace(
        graph,
        groups=groups,
        layers=tuple(layers),
        axes=axes,
        shapes=shapes,
        products=tuple(products),
        attributes=tuple(replace(each, units=left(each.units)) for each in graph.attributes),
    )


def _with_biases(graph: ChannelGraph, tensors: Collection[str]) -> ChannelGraph:
    """The graph of the whole network if its layers had the biases of `tensors`."""
    axes, shapes, layers = dict(graph.axes), dict(graph.shapes), []
    for layer in graph.layers:
        bias = layer.weight.rpartition(".")[0] + ".bias"
        if layer.bias is None and bias in tensors:
            axes[bias, 0] = _outputs(graph, layer)
            shapes[bias] = (len(axes[bias, 0]),)
            layer = replace(layer, bias=bias)
        layers.append(layer)
    added = shapes.keys() - graph.shapes.keys()
    return replace(
        graph,
        layers=tuple(layers),
        axes=axes,
        shapes=shapes,
        parameters=graph.parameters | added,
    )


def _outputs(graph: ChannelGraph, layer: Layer) -> np.ndarray:
    """The unit of each channel that a layer writes, int64 [channels]."""
    units = graph.axes[layer.weight, layer.written]
    if layer.kind == "conv_transpose" and layer.conv_groups > 1:  # by blocks: one unit, or fixed
        return np.repeat(units[:: len(units) // layer.conv_groups], graph.shapes[layer.weight][1])
    return units


def nested(outer: Keep, inner: Keep) -> Keep:
    """`inner` in the numbers of `narrowed(graph, outer)`. ValueError where outer lacks a unit."""
    places = []
    for have, want in zip(outer, inner, strict=True):
        place = np.searchsorted(have, want)
        if (place == len(have)).any() or (have[np.minimum(place, len(have) - 1)] != want).any():
            raise ValueError("a unit that is to stay has gone already")
        places.append(place)
    return tuple(places)
