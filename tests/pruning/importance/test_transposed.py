"""Scores of channels that transposed convolutions write and read; their weights are [in, out]."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pruning.graph import trace
from pruning.importance import GatedNetwork, taylor_ranks, weight_counts, weight_sums
from pruning.importance.gates import learn_gates


class Up(nn.Module):
    """A stem, an upsampling layer that halves the channels, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.up(self.a(x).relu()).relu().mean((2, 3)))


def test_weights_are_summed_where_they_write_and_read() -> None:
    torch.manual_seed(0)
    net = Up()
    graph = trace(net, (3, 8, 8))
    assert list(graph.index) == ["a", "up"]
    a, up, fc = (layer.weight.detach().double() for layer in (net.a, net.up, net.fc))
    written = torch.cat([a.square().sum((1, 2, 3)), up.square().sum((0, 2, 3))])
    read = torch.cat([up.square().sum((1, 2, 3)), fc.square().sum(0)])
    np.testing.assert_allclose(weight_sums(net, graph, axis=0, power=2), written)
    np.testing.assert_allclose(weight_sums(net, graph, axis=1, power=2), read)
    np.testing.assert_allclose(weight_counts(graph, 0), [27] * 8 + [8 * 4] * 4)
    np.testing.assert_allclose(weight_counts(graph, 1), [4 * 4] * 8 + [5] * 4)


def test_gates_and_ranks_know_the_axes() -> None:
    """A channel that nothing writes ranks last, and its gate closes under a price."""
    torch.manual_seed(0)
    net = Up().eval()
    with torch.no_grad():
        net.up.weight[:, 2] = 0
        net.up.bias[2] = 0
        net.a.weight[5] = 0
        net.a.bias[5] = 0
    graph = trace(net, (3, 8, 8))
    batches = [(torch.randn(16, 3, 8, 8), torch.randint(5, (16,))) for _ in range(2)]
    ranks = taylor_ranks(net, graph, batches)
    assert ranks[:8].argmin() == 5 and ranks[8:].argmin() == 2
    gates = learn_gates(GatedNetwork(net, graph), batches, np.ones(12), gamma=1e-3, steps=40)
    assert gates[5] == gates[8 + 2] == gates.min() < 0.1
