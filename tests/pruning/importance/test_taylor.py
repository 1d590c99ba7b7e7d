"""Masks against real cuts, Taylor ranks against a plain loop, loss curves against cut networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch.nn import functional as F

from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.masking import masked
from pruning.graph.surgery import cut
from pruning.importance.taylor import LossCurves, first_images, loss_curves, taylor_ranks
from pruning.training.evaluation import mean_loss
from tests.pruning import sample_models

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def batches(network: str) -> Batches:
    x = sample_models.images(network, 6)
    return [(x[:4], torch.arange(4)), (x[4:], torch.arange(2))]


def without(graph: ChannelGraph, keep: Keep) -> np.ndarray:
    """Flat units that `keep` leaves out."""
    return np.flatnonzero(~graph.kept_units(keep)[:-1])


@pytest.mark.parametrize(
    "name", [*sample_models.MODELS, "torchvision:resnext50_32x4d", "torchvision:shufflenet_v2_x1_0"]
)
@pytest.mark.parametrize("known", [0, 2], ids=["saved", "every second from elsewhere"])
def test_a_masked_network_is_the_cut_one_and_comes_back(name: str, known: int) -> None:
    net, graph = sample_models.model(name), sample_models.graph(name)
    keep = sample_models.random_keep(graph, 11)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    origin = {key: before[key] for key in [*before][::known]} if known else None
    x = sample_models.images(name)
    with torch.no_grad():
        expected = cut(net, graph, keep)(x)
        with masked(net, graph, without(graph, keep), origin):
            got = net(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_mask_is_lifted_after_an_error() -> None:
    net, graph = sample_models.model("resnet20"), sample_models.graph("resnet20")
    before = net.state_dict()["conv1.weight"].clone()
    with pytest.raises(RuntimeError), masked(net, graph, np.arange(8)):
        net(torch.zeros(1, 7, 32, 32))
    assert torch.equal(net.state_dict()["conv1.weight"], before)


@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v2"])
def test_taylor_ranks_equal_a_plain_loop(network: str) -> None:
    net, graph = sample_models.model(network), sample_models.graph(network)
    expected = [np.zeros(group.units) for group in graph.groups]
    parameters = dict(net.named_parameters())
    for x, y in batches(network):
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        for g, producers in enumerate(graph.producers):
            members = [parameters[graph.layers[i].weight] for i in producers]
            m = len(members) - 1
            for j, weight in enumerate(members):
                scores = (weight.grad * weight).detach().abs().flatten(1).sum(1)
                rank = rankdata(scores.numpy(), method="ordinal") / len(scores)
                expected[g] += max(1, j) / max(1, m) * rank
    net.zero_grad(set_to_none=True)
    found = taylor_ranks(net, graph, batches(network))
    got = [found[a:b] for a, b in zip(graph.offsets[:-1], graph.offsets[1:], strict=True)]
    for mine, plain in zip(got, expected, strict=True):
        # sums in another order may swap two equal scores
        assert np.mean(np.abs(mine - plain) > 1e-9) < 0.05


def test_a_filter_that_nobody_needs_ranks_lowest() -> None:
    net, graph = sample_models.model("vgg16_bn"), sample_models.graph("vgg16_bn")
    with masked(net, graph, np.array([graph.offsets[3] + 5])):
        ranks = taylor_ranks(net, graph, batches("vgg16_bn"))
    assert ranks[graph.offsets[3] : graph.offsets[4]].argmin() == 5


def test_loss_curves_are_those_of_cut_networks() -> None:
    net, graph = sample_models.model("digits"), sample_models.graph("digits")
    data = batches("digits")
    scores = np.random.default_rng(0).uniform(size=graph.units)
    curves = loss_curves(net, graph, scores, data, points=4)
    assert curves.loss == pytest.approx(mean_loss(net, data))
    for g, removed, variation in zip(curves.group, curves.removed, curves.variation, strict=True):
        keep = list(graph.full_keep())
        own = scores[graph.offsets[g] : graph.offsets[g + 1]]
        keep[g] = np.sort(np.argsort(own)[removed:])
        slim = cut(net, graph, tuple(keep))
        assert variation == pytest.approx(mean_loss(slim, data) - curves.loss, abs=1e-5)
    for g, group in enumerate(graph.groups):
        counts = curves.removed[curves.group == g]
        assert counts.tolist() == [group.units * i // 4 for i in range(4)] + [group.units - 1]


def test_curves_interpolate_and_survive_being_stored() -> None:
    group, removed = np.array([0, 0, 0, 1, 1]), np.array([0, 2, 3, 0, 4])
    curves = LossCurves(group, removed, np.array([0, 1.0, -2.0, 0, 8.0]), loss=0.5)
    again = LossCurves.from_arrays(curves.arrays())
    assert [again.at(0, k) for k in (0, 1, 2, 2.5, 3)] == [0, 0.5, 1, -0.5, -2]
    assert again.at(1, 1) == 2 and again.loss == 0.5


def test_a_loss_that_is_not_finite_counts_as_huge() -> None:
    graph = sample_models.graph("digits")
    net = sample_models.model("digits")
    data = [(torch.full_like(x, 1e38), y) for x, y in batches("digits")]
    curves = loss_curves(net, graph, np.arange(graph.units), data, points=1)
    assert np.isfinite(curves.variation).all()


def test_first_images_are_trimmed_and_batched_anew() -> None:
    data = [(torch.arange(i, i + 4), torch.arange(i, i + 4)) for i in (0, 4, 8)]
    assert [len(y) for _, y in first_images(data, 6).batches] == [4, 2]
    again = list(first_images(data, 10, size=3).batches)
    assert [len(y) for _, y in again] == [3, 3, 3, 1]
    assert torch.cat([x for x, _ in again]).tolist() == list(range(10))
