"""Closed forms against a counted forward pass of the really cut network."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from pruning.graph.cost import Cost
from pruning.graph.surgery import cut
from tests.pruning import sample_models


def counted(net: nn.Module, images: object) -> int:
    """MACs of one image through conv and linear layers, counted by hooks."""
    total = 0

    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        nonlocal total
        shape = output.shape  # type: ignore[attr-defined]
        if isinstance(module, nn.Conv2d):
            total += module.weight[0].numel() * shape[1:].numel()
        else:
            total += module.weight.numel() * shape[1:-1].numel()

    handles = [
        module.register_forward_hook(hook)
        for module in net.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    net(images)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name", [*sample_models.MODELS, *sample_models.MORE_SHAPES])
def test_equal_to_a_counted_forward_pass(name: str) -> None:
    net, graph = sample_models.model(name), sample_models.graph(name)
    cost = Cost(graph)
    keeps = [graph.full_keep(), *(sample_models.random_keep(graph, seed) for seed in range(2))]
    for keep in keeps:
        slim, widths = cut(net, graph, keep), graph.kept_widths(keep)
        assert cost.macs(widths) == counted(slim, sample_models.images(name, 1))
        assert cost.params(widths) == sum(p.numel() for p in slim.parameters())


@pytest.mark.parametrize("name", ["resnet20", "torchvision:resnet50"])
def test_many_vectors_at_once(name: str) -> None:
    graph = sample_models.graph(name)
    cost = Cost(graph)
    rng = np.random.default_rng(0)
    widths = rng.integers(1, graph.widths + 1, size=(5000, len(graph.groups)))
    np.testing.assert_array_equal(cost.macs(widths), [cost.macs(w) for w in widths])
    np.testing.assert_array_equal(cost.params(widths), [cost.params(w) for w in widths])
    assert cost.macs(graph.widths) == cost.base_macs


def test_known_totals() -> None:
    assert Cost(sample_models.graph("resnet20")).base_macs == 40_813_184
    assert Cost(sample_models.graph("vgg16_bn")).base_macs == 313_201_664


def test_gradient_is_the_price_of_a_channel() -> None:
    graph = sample_models.graph("resnet20")
    cost = Cost(graph)
    widths = graph.widths // 2
    step = np.eye(len(widths), dtype=np.int64)
    central = (cost.macs(widths + step) - cost.macs(widths - step)) / 2
    np.testing.assert_allclose(cost.macs_gradient(widths), central)
