"""PEEL's reallocation against its own definition, and the BN scales it reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pruning.graph.tracing import trace
from pruning.graph.widths import lattice
from pruning.importance.bn_scale import bn_scales
from pruning.methods import Problem
from pruning.methods.allocation import floored, global_threshold
from pruning.methods.peel import FLOOR, Peel, grow, kept_means
from tests.pruning import sample_models

NETWORKS = ["resnet20", "vgg16_bn", "mobilenet_v2"]


def problem(network: str, divisor: int | None = None) -> Problem:
    graph = sample_models.graph(network)
    return Problem(graph, lattice(graph, divisor))


def constant(p: Problem, per_group: np.ndarray) -> dict[str, np.ndarray]:
    """A state in which all channels of a group have the same scale."""
    return {"scale": np.repeat(per_group, np.diff(p.graph.offsets)).astype(np.float64)}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_rho_of_one_reallocates_nothing(network: str, share: float) -> None:
    p = problem(network)
    scale = bn_scales(sample_models.model(network), p.graph)
    target = share * p.cost.base_macs
    widths = Peel().allocate({"scale": scale}, p, target, rho=1.0)
    backbone = global_threshold(scale, floored(p, FLOOR, target), target)
    np.testing.assert_array_equal(widths, backbone)


def test_equal_importance_scales_the_backbone() -> None:
    p = problem("vgg16_bn", divisor=1)
    base = p.lattice.snap(p.graph.widths * np.linspace(0.3, 0.6, len(p.graph.groups)))
    target = 2 * p.cost.macs(base)
    widths = grow(p, base, np.ones(len(base)), target)
    assert (widths < p.graph.widths).all(), "nothing is full, so one ratio holds for all"
    ratios = widths / base
    assert (np.abs(ratios - ratios[-1]) <= 0.5 / base + 0.5 / base[-1] + 1e-12).all()
    assert 0.97 * target < p.cost.macs(widths) <= target


def test_growth_is_the_largest_of_its_family() -> None:
    p = problem("resnet20")
    rng = np.random.default_rng(0)
    base = p.lattice.snap(p.graph.widths * 0.4)
    importance = rng.uniform(0.2, 2, len(base))
    target = 0.55 * p.cost.base_macs
    widths = grow(p, base, importance, target)

    def member(k: float) -> np.ndarray:
        return np.maximum(p.lattice.snap(base * (1 + k * importance)), base)

    family = [member(k) for k in np.linspace(0, 8, 4001)]
    fitting = [p.cost.macs(w) for w in family if p.cost.macs(w) <= target]
    assert p.cost.macs(widths) == max(fitting)
    assert any((widths == w).all() for w in family)


def test_full_groups_pass_their_share_on() -> None:
    p = problem("vgg16_bn")
    scales = np.ones(len(p.graph.groups))
    scales[:4] = 50.0  # the backbone keeps them whole: they cannot take what they are due
    target = 0.7 * p.cost.base_macs
    widths = Peel().allocate(constant(p, scales), p, target, rho=0.6)
    assert (widths[:4] == p.graph.widths[:4]).all()
    assert 0.995 * target <= p.cost.macs(widths) <= target


def test_the_informative_group_grows_most() -> None:
    p = problem("vgg16_bn", divisor=1)
    base = p.lattice.snap(p.graph.widths * 0.4)
    importance = np.ones(len(base))
    importance[5] = 2.0
    widths = grow(p, base, importance / importance.mean(), 1.5 * p.cost.macs(base))
    growth = widths / base - 1
    np.testing.assert_allclose(growth[5], 2 * np.delete(growth, 5).mean(), rtol=0.1)


def test_uniform_backbone() -> None:
    p = problem("vgg16_bn")
    rng = np.random.default_rng(1)
    state = {"scale": rng.uniform(0, 1, p.graph.units)}
    target = 0.5 * p.cost.base_macs
    widths = Peel(backbone="uniform").allocate(state, p, target, rho=0.8)
    assert 0.995 * target <= p.cost.macs(widths) <= target


def test_importance_is_the_mean_over_kept_channels() -> None:
    p = problem("vgg16_bn", divisor=1)
    units = np.diff(p.graph.offsets)
    scale = np.concatenate([np.linspace(0, g + 1, n) for g, n in enumerate(units)])
    widths = np.full(len(units), 2)
    by_hand = np.array([(g + 1) * (1 - 0.5 / (n - 1)) for g, n in enumerate(units)])
    np.testing.assert_allclose(kept_means(scale, p, widths), by_hand / by_hand.mean())


def test_scales_are_summed_over_a_streams_norms() -> None:
    net, graph = sample_models.model("resnet20"), sample_models.graph("resnet20")
    state = net.state_dict()
    stream = ["bn1", "layer1.0.bn2", "layer1.1.bn2", "layer1.2.bn2"]
    expected = sum(state[f"{name}.weight"].double().abs() for name in stream)
    np.testing.assert_allclose(bn_scales(net, graph)[:16], expected)


class _PartlyNormed(nn.Module):
    """One group behind BN, one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.fc(x.mean((2, 3)))


def test_a_group_without_norm_is_ranked_by_filters_and_counts_as_average() -> None:
    net = _PartlyNormed()
    nn.init.uniform_(net.norm.weight, -2, 2)
    graph = trace(net, (3, 8, 8))
    scales = bn_scales(net, graph)
    gammas = net.norm.weight.detach().double().abs().numpy()
    np.testing.assert_allclose(scales[:4], gammas)
    norms = net.second.weight.detach().double().flatten(1).norm(dim=1).numpy()
    np.testing.assert_allclose(scales[4:], norms / norms.mean() * gammas.mean())


def test_keeps_the_largest_scales() -> None:
    p = problem("resnet20")
    scale = np.random.default_rng(2).uniform(0, 1, p.graph.units)
    widths = p.lattice.snap(p.graph.widths / 2)
    for g, units in enumerate(Peel().select({"scale": scale}, p, widths)):
        own = scale[p.graph.offsets[g] : p.graph.offsets[g + 1]]
        assert own[units].min() > np.delete(own, units).max()
