"""A cut network can be cut again by a graph that was not traced: the whole's, narrowed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from pruning.graph import cut, masked, named_tensors, narrowed, nested, trace
from pruning.graph.channel_graph import ChannelGraph, Keep
from tests.pruning import sample_models

MODELS = [*sample_models.MODELS, *sample_models.MORE_SHAPES]


def some(graph: ChannelGraph, seed: int, within: Keep | None = None) -> Keep:
    """Two thirds of the units of each group or of those `within`, two at least."""
    rng = np.random.default_rng(seed)
    have = within or graph.full_keep()
    return tuple(
        np.sort(rng.choice(units, max(min(2, len(units)), 2 * len(units) // 3), replace=False))
        for units in have
    )


@pytest.mark.parametrize("name", MODELS)
def test_it_is_what_tracing_the_cut_network_finds(name: str) -> None:
    net, graph = sample_models.model(name), sample_models.graph(name)
    keep = some(graph, 3)
    traced = trace(cut(net, graph, keep), sample_models.images(name))
    assert json.loads(narrowed(graph, keep).to_json()) == json.loads(traced.to_json())


@pytest.mark.parametrize("name", MODELS)
def test_cutting_twice_is_cutting_once(name: str) -> None:
    net, graph = sample_models.model(name), sample_models.graph(name)
    outer = some(graph, 3)
    inner = some(graph, 4, outer)
    parent = cut(net, graph, outer)
    twice = cut(parent, narrowed(graph, outer), nested(outer, inner))
    once = cut(net, graph, inner)
    for (key, a), b in zip(named_tensors(twice).items(), named_tensors(once).values(), strict=True):
        assert torch.equal(a, b), key
    x = sample_models.images(name)
    with torch.no_grad():
        assert torch.equal(twice(x), once(x))


class Biasless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, bias=False)
        self.up = nn.ConvTranspose2d(16, 16, 2, groups=8, bias=False)
        self.b = nn.Conv2d(16, 6, 1, bias=False)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.b(self.up(self.a(x).relu()).relu()).relu())


def test_biases_that_a_repair_gave_are_cut_with_their_layers() -> None:
    torch.manual_seed(0)
    net = Biasless().eval()
    graph = trace(net, (3, 8, 8))
    outer = some(graph, 1)
    parent = cut(net, graph, outer)
    for layer in (parent.a, parent.up, parent.b):
        layer.bias = nn.Parameter(torch.randn(layer.out_channels))
    inside = narrowed(graph, outer, named_tensors(parent).keys())
    keep = nested(outer, some(graph, 2, outer))
    small, x = cut(parent, inside, keep), torch.randn(2, 3, 8, 8)
    assert len(small.a.bias) == small.a.out_channels < len(parent.a.bias)
    gone = np.flatnonzero(~inside.kept_units(keep))
    with torch.no_grad(), masked(parent, inside, gone):
        expected = parent(x)
    with torch.no_grad():
        torch.testing.assert_close(small(x), expected)


def test_units_that_have_gone_cannot_stay() -> None:
    graph = sample_models.graph("digits")
    outer = some(graph, 1)
    with pytest.raises(ValueError, match="gone already"):
        nested(outer, graph.full_keep())
