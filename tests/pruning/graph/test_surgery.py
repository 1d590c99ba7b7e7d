"""A cut network computes what the whole one does when nobody reads the removed channels."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.surgery import cut, cut_state, resize
from pruning.graph.widths import lattice
from pruning.models.registry import resolve
from tests.pruning import sample_models


def zeroed(net: nn.Module, graph: ChannelGraph, keep: Keep) -> nn.Module:
    """The whole network, its consumers' weights zeroed where they read a removed channel."""
    net = copy.deepcopy(net)
    state, kept = net.state_dict(), graph.kept_units(keep)
    for layer in graph.layers:
        gone = np.flatnonzero(~kept[graph.axes[layer.weight, layer.read]])
        state[layer.weight].index_fill_(layer.read, torch.from_numpy(gone), 0)
    return net


def minimum(graph: ChannelGraph) -> Keep:
    """One unit per group, the last."""
    return tuple(np.array([group.units - 1]) for group in graph.groups)


# a layer norm of fewer channels is not that of masked ones: see test_findings_costs.py
MASKABLE = [
    name
    for name in (*sample_models.MODELS, *sample_models.MORE_SHAPES)
    if name != "torchvision:convnext_tiny"
]


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize("kept", ["minimum", "random", "full"])
def test_output_equals_zeroed_whole(name: str, kept: str) -> None:
    net, graph = sample_models.model(name), sample_models.graph(name)
    keep = {
        "minimum": minimum(graph),
        "random": sample_models.random_keep(graph, 5),
        "full": graph.full_keep(),
    }[kept]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = sample_models.images(name)
    slim = cut(net, graph, keep)
    with torch.no_grad():
        expected, got = zeroed(net, graph, keep)(x), slim(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), "the whole network was touched"


@pytest.mark.parametrize("name", sample_models.MODELS)
def test_a_training_step_runs(name: str) -> None:
    graph = sample_models.graph(name)
    slim = cut(sample_models.model(name), graph, sample_models.random_keep(graph, 3)).train()
    loss = slim(sample_models.images(name, 4)).square().mean()
    loss.backward()
    gradients = [p.grad for p in slim.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    torch.optim.SGD(slim.parameters(), lr=0.1).step()


@pytest.mark.parametrize("name", sample_models.MODELS)
def test_resize_rebuilds_from_tensors_alone(name: str) -> None:
    graph = sample_models.graph(name)
    keep = sample_models.random_keep(graph, 7)
    slim = cut(sample_models.model(name), graph, keep)
    again = resize(resolve(name), slim.state_dict()).eval()
    x = sample_models.images(name)
    with torch.no_grad():
        torch.testing.assert_close(again(x), slim(x), rtol=0, atol=0)
    assert str(again) == str(slim), "attributes agree with the tensors"


def test_cut_state_shares_no_memory() -> None:
    net, graph = sample_models.model("resnet20"), sample_models.graph("resnet20")
    slim = cut_state(net.state_dict(), graph, graph.full_keep())
    slim["fc.bias"].add_(1)
    assert not torch.equal(net.state_dict()["fc.bias"], slim["fc.bias"])


def test_automatic_divisor() -> None:
    graph = sample_models.graph("vgg16_bn")
    assert set(lattice(graph).step.tolist()) == {8}
    steps = {16: 2, 32: 4, 64: 8}
    small = sample_models.graph("resnet20")
    assert [steps[c] for c in small.widths.tolist()] == lattice(small).step.tolist()


def test_snap_returns_allowed_widths() -> None:
    graph = sample_models.graph("torchvision:resnext50_32x4d")
    lat = lattice(graph, floor=0.1)
    rng = np.random.default_rng(0)
    snapped = lat.snap(rng.uniform(0, 1.2, (50, len(graph.groups))) * graph.widths)
    assert (snapped >= np.maximum(lat.low, 1)).all() and (snapped <= graph.widths).all()
    assert ((snapped % lat.step == 0) | (snapped == lat.high)).all()
    assert (snapped % graph.granularity == 0).all()
