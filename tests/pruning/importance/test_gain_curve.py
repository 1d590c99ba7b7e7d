"""Gain curves and the allocation they lead to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.tracing import trace
from pruning.graph.widths import lattice
from pruning.importance.gain_curve import GainCurves, allocate, gain_curves
from pruning.methods.base import Problem
from pruning.reconstruction.least_squares import Reader, greedy_order
from pruning.reconstruction.moments import input_moments
from tests.pruning import sample_models


def _batches(name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(sample_models.images(name, 6), torch.zeros(6))]


def test_orders_are_permutations_and_useless_channels_come_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 36, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[0].bias[2] = -1e3  # never active: no variance
        model[2].weight[:, 4] = 0  # nobody reads it, but it still stands in for others
    graph = trace(model, (1, 8, 8))
    curves = gain_curves(model, graph, [(torch.randn(16, 1, 8, 8), torch.zeros(16))])
    assert curves.order[5] == 2
    assert curves.gain[5] == 0
    for start, group in zip(graph.offsets, graph.groups, strict=False):
        own = curves.order[start : start + group.units]
        assert sorted(own) == list(range(group.units))
        best = np.argsort(-curves.scores(graph)[start : start + group.units])
        assert (best == own).all()


def test_curves_exist_for_all_groups() -> None:
    for name in ("digits", "resnet20"):
        graph = sample_models.graph(name)
        curves = gain_curves(sample_models.model(name), graph, _batches(name))
        assert np.isfinite(curves.gain).all()
        assert (curves.gain >= 0).all()
        assert (np.add.reduceat(curves.gain, graph.offsets[:-1]) > 0).all()


def _problem(graph: ChannelGraph) -> Problem:
    return Problem(graph, lattice(graph))


def test_targets_are_met_and_the_widths_are_nested() -> None:
    graph = sample_models.graph("resnet20")
    problem = _problem(graph)
    curves = gain_curves(sample_models.model("resnet20"), graph, _batches("resnet20"))
    base = problem.cost.base_macs
    step = max(
        np.diff(problem.cost.macs(np.stack([graph.widths - problem.lattice.step, graph.widths])))
    )
    before = problem.lattice.low
    for share in (0.3, 0.5, 0.7):
        widths = allocate(curves, problem, share * base)
        macs = problem.cost.macs(widths)
        assert macs <= share * base
        assert macs >= share * base - step
        assert (problem.lattice.snap(widths) == widths).all()
        assert widths.sum() >= before.sum()
        before = widths
    assert (allocate(curves, problem, base) == graph.widths).all()


def test_channels_go_where_the_gain_is() -> None:
    graph = sample_models.graph("digits")
    problem = _problem(graph)
    for favourite in range(len(graph.groups)):
        gain = np.full(graph.units, 1e-9)
        gain[graph.offsets[favourite] : graph.offsets[favourite + 1]] = 1.0
        order = np.concatenate([np.arange(group.units) for group in graph.groups])
        widths = allocate(GainCurves(order, gain), problem, 0.6 * problem.cost.base_macs)
        share = widths / graph.widths
        assert share[favourite] == share.max()


def test_a_budget_of_milliseconds_or_parameters_is_spent_like_one_of_macs() -> None:
    """On a device whose time is MACs the widths are the same; what saves no time stays whole."""
    graph = sample_models.graph("resnet20")
    curves = gain_curves(sample_models.model("resnet20"), graph, _batches("resnet20"))
    by_macs, lat = _problem(graph), lattice(graph)
    plain = Problem(graph, lat, "latency", lambda w: by_macs.cost.macs(w) * 2.0**-20)
    for share in (0.3, 0.6):
        expected = allocate(curves, by_macs, share * by_macs.cost.base)
        assert (allocate(curves, plain, share * plain.cost.base) == expected).all()

    free = np.arange(len(graph.groups)) < 4
    weight = np.where(free, 0.0, 1.0)
    timed = Problem(graph, lat, "latency", lambda w: (weight * w**2).sum(-1) / 100)
    widths = allocate(curves, timed, 0.4 * timed.cost.base)
    assert timed.cost.of(widths) <= 0.4 * timed.cost.base
    assert (widths[free] == graph.widths[free]).all()
    slim = Problem(graph, lat, "params")
    widths = allocate(curves, slim, 0.4 * slim.cost.base)
    assert 0.35 * slim.cost.base < slim.cost.params(widths) <= 0.4 * slim.cost.base


@pytest.mark.parametrize("dead", [0, 2])
def test_what_a_layer_reads_besides_counts_as_known(dead: int) -> None:
    """The same numbers as with those columns handed to the greedy order; dead channels or none."""
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 5, 3)
            self.c = nn.Conv2d(9, 3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))

    model = Two().eval()
    with torch.no_grad():
        for layer in (model.a, model.b):
            assert layer.bias is not None
            layer.bias[:dead] = -100.0
    graph = trace(model, (1, 10, 10))
    batches = [(torch.randn(40, 1, 10, 10), torch.zeros(40))]
    curves = gain_curves(model, graph, batches)
    each = input_moments(model, graph, batches)["c.weight"]
    for g, channels in ((0, np.arange(4)), (1, np.arange(4, 9))):
        unit = np.full(9, -1)
        unit[channels] = np.arange(len(channels))
        reader = Reader(each.xx[0], each.xy[0], np.tile(unit, 9))
        order, gains = greedy_order([reader], len(channels))
        part = slice(graph.offsets[g], graph.offsets[g + 1])
        alive = len(channels) - dead
        assert (curves.order[part][:alive] == order[:alive]).all()
        np.testing.assert_allclose(curves.gain[part], gains, rtol=1e-3, atol=1e-4 * gains[0])
