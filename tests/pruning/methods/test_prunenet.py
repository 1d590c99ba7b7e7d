"""PruneNet's gates, its variance after filtering and the folding of means."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pruning.graph import ChannelGraph, Keep, cut, lattice, trace
from pruning.importance.gates import GatedNetwork, balanced_gamma, learn_gates
from pruning.importance.variance import channel_moments, filtered_variance
from pruning.methods import Problem
from pruning.methods.prunenet import PruneNet
from pruning.reconstruction.calls import norms_after
from tests.pruning import sample_models

DEAD = 3


class _Chain(nn.Module):
    """Two convolutions with BN, a linear layer with a bias behind; channel 3 has no reader."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        nn.init.constant_(self.second.weight[:, DEAD].detach(), 0.0)
        for bn in (self.bn1, self.bn2):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.uniform_(bn.running_mean, -0.3, 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.first(x)))
        x = F.relu(self.bn2(self.second(x)))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def chain() -> tuple[_Chain, ChannelGraph, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    net = _Chain().eval()
    x = torch.randn(64, 3, 9, 9)
    with torch.no_grad():
        y = net(x).argmax(1)
    return net, trace(net, (3, 9, 9)), list(zip(x.split(16), y.split(16), strict=True))


@pytest.mark.parametrize("variance", [0.0, 0.5, 1.0])
def test_a_channel_that_nobody_reads_goes_first(chain, variance: float) -> None:  # type: ignore[no-untyped-def]
    net, graph, batches = chain
    p = Problem(graph, lattice(graph, divisor=1))
    method = PruneNet(steps=40, batch=16, bisections=2)
    state = method.prepare(net, graph, batches)
    own = method.scores(state, p, variance=variance)[: graph.offsets[1]]
    assert own.argmin() == DEAD
    keep = method.select(state, p, np.array([5, 8]), variance=variance)
    assert DEAD not in keep[0]


def test_no_gradient_is_needed_to_see_a_dead_channel(chain) -> None:  # type: ignore[no-untyped-def]
    net, graph, batches = chain
    moments = channel_moments(net, graph, batches)
    importance = filtered_variance(net, graph, moments)[: graph.offsets[1]]
    assert importance[DEAD] == 0 and (np.delete(importance, DEAD) > 0).all()


@pytest.mark.parametrize("name", [*sample_models.MODELS, "torchvision:resnext50_32x4d"])
def test_gates_at_zero_and_one_are_the_cut_network(name: str) -> None:
    net, graph = sample_models.model(name), sample_models.graph(name)
    network, x = GatedNetwork(net, graph), sample_models.images(name)
    keep = sample_models.random_keep(graph, 4)
    gates = torch.from_numpy(graph.kept_units(keep)[:-1]).float()
    with torch.no_grad():
        expected = cut(net, graph, keep)(x)
        scale = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(network(gates, x), expected, rtol=1e-4, atol=scale)
        torch.testing.assert_close(network(torch.ones(graph.units), x), net(x))


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn"])
def test_gates_are_those_after_the_norms(name: str) -> None:
    """On ReLU networks: scaling readers equals scaling the BN outputs of all that write."""
    net, graph = sample_models.model(name), sample_models.graph(name)
    gates = torch.rand(graph.units, generator=torch.Generator().manual_seed(0))
    hooks = []
    for path, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            factor = gates[torch.from_numpy(graph.axes[f"{path}.weight", 0])].view(1, -1, 1, 1)
            hooks.append(module.register_forward_hook(lambda m, i, out, f=factor: out * f))
    x = sample_models.images(name)
    with torch.no_grad():
        expected = net(x)
        for hook in hooks:
            hook.remove()
        got = GatedNetwork(net, graph)(gates, x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_price_closes_gates_and_none_keeps_what_helps(chain) -> None:  # type: ignore[no-untyped-def]
    net, graph, batches = chain
    network, prices = GatedNetwork(net, graph), np.ones(graph.units)
    assert not learn_gates(network, batches, prices, 1e3, steps=40).any()
    free = learn_gates(network, batches, prices, 0.0, steps=40)
    assert free[DEAD] == 1, "no price and no gradient: it stays where it was"
    gamma = balanced_gamma(network, batches, prices, rounds=4, steps=40)
    closed = learn_gates(network, batches, prices, gamma, steps=40) < 0.5
    assert 0.25 <= closed.mean() <= 0.75


def test_a_dearer_channel_closes_first() -> None:
    """Two channels of equal use, one ten times the price."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[3].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        net[3].bias.zero_()
    graph = trace(net, (1, 1, 1))
    batches = [(torch.ones(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64))]
    gates = learn_gates(GatedNetwork(net, graph), batches, np.array([0.1, 1.0]), 0.05, steps=60)
    assert gates[1] < gates[0]


def test_variance_after_filtering_equals_its_definition() -> None:
    """Σ_o Var over images and places of what filter o makes of channel c alone."""
    net, graph = sample_models.model("resnet20"), sample_models.graph("resnet20")
    x = sample_models.images("resnet20", 5)
    g = graph.index["layer2.0.conv1"]
    consumer = net.get_submodule("layer2.0.conv2")
    inputs = []
    hook = consumer.register_forward_pre_hook(lambda m, args: inputs.append(args[0].double()))
    with torch.no_grad():
        net(x)
    hook.remove()
    expected = [
        F.conv2d(inputs[0][:, [c]], consumer.weight[:, [c]].detach().double(), padding=1)
        .transpose(0, 1)
        .flatten(1)
        .var(1, correction=0)
        .sum()
        .item()
        for c in range(32)
    ]
    moments = channel_moments(net, graph, [(x, torch.zeros(5))], positions=32 * 32)
    found = filtered_variance(net, graph, moments)[graph.offsets[g] : graph.offsets[g + 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_folding_keeps_the_mean_of_every_output(chain) -> None:  # type: ignore[no-untyped-def]
    net, graph, batches = chain
    x = torch.cat([images for images, _ in batches])
    method = PruneNet(steps=1, batch=16, bisections=1, positions=81)
    state = method.prepare(net, graph, batches)
    for keep, layer in (
        ((np.array([0, 4]), np.arange(8)), "bn2"),  # into the BN's mean
        ((np.arange(6), np.array([1, 2, 7])), "fc"),  # into the bias
    ):
        slim = cut(net, graph, keep)
        method.repair(slim, net, graph, state, keep)
        torch.testing.assert_close(
            _mean_output(slim, layer, x), _mean_output(net, layer, x), rtol=1e-4, atol=1e-5
        )
        assert slim.second.bias is None, "the BN took it"


def test_folding_gives_a_layer_without_norm_a_bias() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(4, 3, bias=False),
    ).eval()  # fmt: skip
    graph = trace(net, (2, 5, 5))
    x = torch.randn(50, 2, 5, 5)
    method = PruneNet(steps=1, bisections=1, positions=81)
    state = method.prepare(net, graph, [(x, torch.zeros(50, dtype=torch.int64))])
    keep: Keep = (np.array([1, 2]), np.arange(4))
    slim = cut(net, graph, keep)
    method.repair(slim, net, graph, state, keep)
    assert slim[2].bias is not None and slim[5].bias is None
    torch.testing.assert_close(_mean_output(slim, "2", x), _mean_output(net, "2", x))


def test_norms_that_alone_read_a_layer() -> None:
    graph = sample_models.graph("resnet20")
    found = norms_after(sample_models.model("resnet20"), graph, sample_models.images("resnet20"))
    assert found["conv1.weight"] == "bn1" and found["layer1.2.conv2.weight"] == "layer1.2.bn2"
    assert set(found) == {layer.weight for layer in graph.layers if layer.kind == "conv"}
    dense = norms_after(
        sample_models.model("densenet40"),
        sample_models.graph("densenet40"),
        sample_models.images("densenet40"),
    )
    assert not dense, "there every output is concatenated first"


class _Forked(nn.Module):
    """A convolution whose output is read by a BN and by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fc((x + self.bn(x)).mean((2, 3)))


def test_a_norm_that_shares_its_input_takes_no_mean() -> None:
    net = _Forked()
    before = copy.deepcopy(net.state_dict())
    assert not norms_after(net, trace(net, (1, 4, 4)), torch.randn(2, 1, 4, 4))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and net.training


def _mean_output(net: nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    outputs = []
    module = net.get_submodule(layer)
    hook = module.register_forward_hook(lambda m, i, out: outputs.append(out))
    with torch.no_grad():
        net(x)
    hook.remove()
    return outputs[0].transpose(0, 1).flatten(1).mean(1)
