"""Balanced's counts where the answer is known, and its search for a loss variation."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pruning.graph.tracing import trace
from pruning.graph.widths import lattice
from pruning.importance.taylor import LossCurves
from pruning.methods import Problem
from pruning.methods.allocation import spend
from pruning.methods.balanced import (
    Balanced,
    false_position,
    largest_count,
    recovered,
    within,
)
from tests.pruning import sample_models

GIVES = torch.tensor([0.1, 0.7, 0.02, 1.5, 0.3, 0.05, 0.9, 0.4])  # per channel, to logit 0


class _Known(nn.Module):
    """Logits (Σ c_i, 0) of eight channels for any image of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 1, bias=False)
        self.fc = nn.Linear(8, 2, bias=False)
        self.conv.weight.data = GIVES.view(8, 1, 1, 1).clone()
        self.fc.weight.data = torch.stack([torch.ones(8), torch.zeros(8)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.fixture
def known() -> tuple[Problem, dict[str, np.ndarray]]:
    net = _Known()
    graph = trace(net, (1, 2, 2))
    batches = [(torch.ones(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64))]
    state = Balanced(images=4, points=8).prepare(net, graph, batches)
    return Problem(graph, lattice(graph, divisor=1)), state


def variation(removed: int) -> float:
    """L − L0 without the channels that give least."""
    left = GIVES.double().sort().values[removed:].sum()
    return math.log1p(math.exp(-left)) - math.log1p(math.exp(-GIVES.double().sum()))


@pytest.mark.parametrize("delta", [1e-4, 0.0004, 0.002, 0.005, 0.02, 0.1, 0.3, 5.0])
def test_the_count_is_the_largest_within_delta(
    known: tuple[Problem, dict[str, np.ndarray]], delta: float
) -> None:
    p, state = known
    largest = max(k for k in range(8) if variation(k) <= delta)
    widths = Balanced().allocate(state, p, delta=delta)
    assert widths.tolist() == [8 - largest]
    kept = Balanced().select(state, p, widths)[0]
    assert set(kept) == set(GIVES.argsort(descending=True)[: len(kept)].tolist())


def test_loss_curve_of_the_known_network(known: tuple[Problem, dict[str, np.ndarray]]) -> None:
    curve = LossCurves.from_arrays(known[1])
    expected = [variation(k) for k in range(8)]
    np.testing.assert_allclose(curve.variation, expected, atol=1e-6)


def curves(*variations: list[float]) -> LossCurves:
    """One point for every count of each group."""
    return LossCurves(
        np.concatenate([np.full(len(v), g) for g, v in enumerate(variations)]),
        np.concatenate([np.arange(len(v)) for v in variations]),
        np.concatenate([np.array(v) for v in variations]),
        loss=0.1,
    )


def test_a_loss_that_falls_too_far_is_refused_as_well() -> None:
    p = Problem(sample_models.graph("digits"), lattice(sample_models.graph("digits"), divisor=1))
    units = np.diff(p.graph.offsets)
    rising = [(np.arange(n) / n).tolist() for n in units]
    falling = [(-np.arange(n) / n).tolist() for n in units]
    np.testing.assert_array_equal(
        within(curves(*rising), p, 0.25), within(curves(*falling), p, 0.25)
    )


def test_a_group_that_fails_at_its_smallest_trial_stays_whole() -> None:
    p = Problem(sample_models.graph("digits"), lattice(sample_models.graph("digits")))
    units = np.diff(p.graph.offsets)
    steep = curves(*([0.0, *[1.0] * (n - 1)] for n in units))
    np.testing.assert_array_equal(within(steep, p, 0.5), p.graph.widths)


@pytest.mark.parametrize("units", [1, 2, 3, 7, 8, 13, 64, 100])
def test_bisection_finds_every_answer_in_few_trials(units: int) -> None:
    for answer in range(units):
        trials: list[int] = []

        def fits(k: int, answer: int = answer, trials: list[int] = trials) -> bool:
            trials.append(k)
            return k <= answer

        assert largest_count(fits, units) == answer
        assert len(trials) <= math.ceil(math.log2(max(units, 1)))
        assert 0 not in trials and units not in trials


def test_widths_are_rounded_up_so_that_delta_holds() -> None:
    p = Problem(sample_models.graph("vgg16_bn"), lattice(sample_models.graph("vgg16_bn")))
    units = np.diff(p.graph.offsets)
    measured = curves(*((np.arange(n) / n).tolist() for n in units))
    widths = within(measured, p, 0.51)
    for g, w in enumerate(widths):
        assert measured.at(g, units[g] - w) <= 0.51
        assert measured.at(g, units[g] - w + p.lattice.step[g]) > 0.51


@pytest.mark.parametrize("start", [-9.0, -1.0, 0.0, 6.0])
@pytest.mark.parametrize("zero", [-3.3, 0.7])
def test_false_position_reaches_the_tolerance(start: float, zero: float) -> None:
    seen: list[tuple[float, float]] = []

    def excess(x: float) -> float:
        value = -math.tanh(x - zero)
        seen.append((x, value))
        return value

    false_position(excess, start)
    assert any(-0.005 < value <= 0 for _, value in seen)
    bracket = 1 + math.ceil(abs(start - zero) / math.log(2))
    assert len(seen) <= bracket + 1 + 8


def test_a_target_beyond_every_delta_ends() -> None:
    false_position(lambda x: 1.0, 0.0)
    false_position(lambda x: -1.0, 0.0)


def test_a_larger_delta_never_widens(known: tuple[Problem, dict[str, np.ndarray]]) -> None:
    p, state = known
    macs = [p.cost.macs(Balanced().allocate(state, p, delta=d)) for d in np.geomspace(1e-4, 1, 30)]
    assert all(a >= b for a, b in itertools.pairwise(macs)) and macs[0] > macs[-1]


def test_equal_groups_are_cut_alike() -> None:
    """The common delta moves them together; what is left after it does not pile up on one."""
    p = Problem(sample_models.graph("digits"), lattice(sample_models.graph("digits"), divisor=1))
    state = curves(*(((np.arange(n) / n) ** 2).tolist() for n in np.diff(p.graph.offsets))).arrays()
    for share in (0.8, 0.5, 0.2):
        target = share * p.cost.base_macs
        widths = Balanced().allocate(state, p, target)
        assert 0.98 * target <= p.cost.macs(widths) <= target
        left = widths / p.graph.widths
        assert left.max() - left.min() <= 2 / 16, "at most two steps of the smallest group"


def test_the_rest_goes_where_it_takes_back_most_loss_per_mac() -> None:
    p = Problem(sample_models.graph("digits"), lattice(sample_models.graph("digits"), divisor=1))
    rng = np.random.default_rng(0)
    units = np.diff(p.graph.offsets)
    measured = curves(*(np.cumsum([0, *rng.uniform(0, 1, n - 1)]).tolist() for n in units))
    start = within(measured, p, 2.0)

    def gain(w: np.ndarray, g: int) -> float:
        saved = measured.at(g, units[g] - w[g]) - measured.at(g, units[g] - w[g] - 1)
        wider = w + np.eye(len(w), dtype=np.int64)[g]
        return saved / (p.cost.macs(wider) - p.cost.macs(w))

    open_groups = np.flatnonzero(start < p.graph.widths)
    best = max(open_groups, key=lambda g: gain(start, g))
    price = p.cost.macs(start + np.eye(len(start), dtype=np.int64)[best]) - p.cost.macs(start)
    found = spend(p, start, p.cost.macs(start) + price, partial(recovered, measured, p))
    assert found[best] == start[best] + 1
