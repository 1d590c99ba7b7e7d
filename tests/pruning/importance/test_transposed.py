"""Scores of channels that transposed convolutions write and read; their weights are [in, out]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pruning import methods, oneshot
from pruning.graph import Problem, lattice, trace
from pruning.importance import (
    GatedNetwork,
    channel_moments,
    filtered_variance,
    taylor_ranks,
    weight_counts,
    weight_sums,
)
from pruning.importance.gates import learn_gates


class Up(nn.Module):
    """A stem, an upsampling layer that halves the channels, and a head."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.up(self.a(x).relu())).relu().mean((2, 3)))


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
    np.testing.assert_allclose(weight_counts(graph, 0), [27] * 8 + [8 * 9] * 4)
    np.testing.assert_allclose(weight_counts(graph, 1), [4 * 9] * 8 + [5] * 4)


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


def test_the_variance_that_a_channel_sends_through_one() -> None:
    torch.manual_seed(0)
    net = Up().eval()
    graph = trace(net, (3, 8, 8))
    batches = [(torch.randn(64, 3, 8, 8), torch.zeros(64))]
    moments = channel_moments(net, graph, batches, positions=10**6)
    found = filtered_variance(net, graph, moments)[:8]
    x = net.a(batches[0][0]).relu().detach()
    for unit in range(8):
        alone = torch.zeros_like(x)
        alone[:, unit] = x[:, unit]
        variance = net.up(alone).var((0, 2, 3), correction=0).sum()
        np.testing.assert_allclose(found[unit], variance.item(), rtol=1e-3)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("method", ["gain-curve", "cap"])
@pytest.mark.parametrize("repair", ["feedback", "compensate"])
def test_channels_that_repeat_others_are_cut_without_a_trace(
    method: str, repair: str, norm: bool
) -> None:
    """The layer that reads them is a transposed one: it is measured, and refitted."""
    torch.manual_seed(0)
    net = Up(norm).eval()
    with torch.no_grad():
        net.a.weight[4:], net.a.bias[4:] = net.a.weight[:4], net.a.bias[:4]
        if norm:
            net.norm.running_mean.uniform_(-1, 1)
            net.norm.running_var.uniform_(0.5, 2)
    graph = trace(net, (3, 8, 8))
    problem = Problem(graph, lattice(graph, 1, 0.1))
    batches = [(torch.randn(32, 3, 8, 8), torch.randint(5, (32,))) for _ in range(2)]
    chosen = methods.get(method)
    state = chosen.prepare(net, graph, batches)
    assert sorted(state["order"][:4] % 4) == [0, 1, 2, 3]
    assert state["gain"][:4].min() > 1e3 * state["gain"][4:8].max()
    widths = np.array([4, 4])
    slim = oneshot.slim(net, problem, chosen, state, widths, batches, repair=repair).model
    x = torch.randn(16, 3, 8, 8)
    torch.testing.assert_close(slim(x), net(x), rtol=1e-2, atol=1e-3)
