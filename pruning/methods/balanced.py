"""Balanced: every group as narrow as one common loss variation allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from torch import nn

from pruning.graph import ChannelGraph
from pruning.importance import LossCurves, first_images, loss_curves, taylor_ranks
from pruning.methods.allocation import spend
from pruning.methods.base import Batches, Method, Problem, Scalar, State

TOLERANCE = 0.005  # of the whole network's MACs
STEPS = 8  # of the false position; each is a table look-up


@dataclass(frozen=True)
class Balanced(Method):
    """The largest count of every group, removed alone, with |L − L0| ≤ delta; then all at once.

    L0 = mean cross-entropy of the whole network in evaluation mode, delta the allowed loss
    variation in nats. Inside a group the lowest Taylor ranks go: Σ over batches of the normalised
    rank of ‖∂L/∂W_i ⊙ W_i‖₁, weighted sums of them where several layers write a group (see
    pruning.importance.taylor). The count is found by bisection from half the group, about log2 n
    look-ups; a group that fails at its smallest trial stays whole. No retraining in between.

    delta for a MAC target: bracket from 0.05·L0 by doubling or halving, false position (Illinois)
    on (log delta, MACs) with a bisection safeguard; the rest is filled with the steps whose loss
    variation per MAC is largest.

    `images`: how many the loss curves read; `points`: counts measured in a group. The scores are
    taken over all batches given, which must not be the test split.

    Source: arXiv 2010.06821. Follows the released code (scores, shared index sets, bisection), with
    these parts ours: losses between measured counts are interpolated and widths rounded up to the
    lattice, so that a proposal costs a look-up; the routine for a target; zero-padded shortcuts are
    fixed by the tracer, not shifted. The released code scores on test images; this does not.
    """

    name = "balanced"
    faithfulness = "follows the released code (parts marked ours excepted)"
    scalars: ClassVar[Mapping[str, Scalar]] = {"delta": Scalar(1e-4, 1.0, 0.02, log=True)}
    needs_target = False

    images: int = 512
    points: int = 8

    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        ranks = taylor_ranks(model, graph, batches)
        scored = first_images(batches, self.images)
        return {"taylor": ranks, **loss_curves(model, graph, ranks, scored, self.points).arrays()}

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        return state["taylor"]

    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        """Widths of `delta`; with a target those of the delta that meets it, whatever is given."""
        curves = LossCurves.from_arrays(state)
        if budget is None:
            return within(curves, problem, scalars.get("delta", self.scalars["delta"].default))
        widths = _meet(curves, problem, budget)
        return spend(problem, widths, budget, partial(recovered, curves, problem))


def within(curves: LossCurves, problem: Problem, delta: float) -> np.ndarray:
    """Smallest allowed widths whose groups each vary the loss by at most delta, int64 [groups]."""
    lat, granularity = problem.lattice, problem.graph.granularity
    kept = np.empty(len(granularity), dtype=np.int64)
    for g, group in enumerate(problem.graph.groups):
        fits = partial(_varies_little, curves, delta, g)
        kept[g] = group.units - largest_count(fits, group.units)
    widths = -(-kept * granularity // lat.step) * lat.step
    return np.clip(widths, lat.low, lat.high)


def largest_count(fits: Callable[[int], bool], units: int) -> int:
    """Largest k < units that fits, by bisection from units/2; 0 if every trial fails."""
    low, high = 0, units
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def _varies_little(curves: LossCurves, delta: float, group: int, removed: int) -> bool:
    return abs(curves.at(group, removed)) <= delta


def _meet(curves: LossCurves, problem: Problem, budget: float) -> np.ndarray:
    """Widths of the delta whose cost comes closest to `budget` from below."""
    seen: dict[float, np.ndarray] = {}

    def excess(log_delta: float) -> float:
        seen[log_delta] = within(curves, problem, math.exp(log_delta))
        return float(problem.cost.of(seen[log_delta]) - budget) / problem.cost.base

    false_position(excess, math.log(max(0.05 * abs(curves.loss), 1e-9)))
    fitting = [widths for widths in seen.values() if problem.cost.of(widths) <= budget]
    return max(fitting, key=problem.cost.of, default=problem.lattice.low)


def false_position(excess: Callable[[float], float], start: float, widest: float = 40.0) -> None:
    """Evaluate a falling `excess` around its zero: bracket by log 2, then Illinois steps.

    Stops at an excess in (−TOLERANCE, 0], after STEPS steps, or where no zero lies within `widest`
    of the start.
    """
    left = right = start
    at_left = at_right = excess(start)
    while at_right > 0 and right - start < widest:
        left, at_left = right, at_right
        right += math.log(2)
        at_right = excess(right)
    while at_left <= 0 and start - left < widest:
        right, at_right = left, at_left
        left -= math.log(2)
        at_left = excess(left)
    weight_left, weight_right = at_left, at_right
    for _ in range(STEPS):
        if at_left <= 0 or at_right > 0 or at_right > -TOLERANCE:
            return
        span = right - left
        middle = right - weight_right * span / (weight_right - weight_left)
        if not left + 0.05 * span < middle < right - 0.05 * span:
            middle = (left + right) / 2  # a step function stalls at one end
        value = excess(middle)
        if value > 0:
            left, at_left, weight_left, weight_right = middle, value, value, weight_right / 2
        else:
            right, at_right, weight_right, weight_left = middle, value, value, weight_left / 2


def recovered(curves: LossCurves, problem: Problem, widths: np.ndarray) -> np.ndarray:
    """Loss variation that one further channel of each group takes back: float64 [groups]."""
    graph = problem.graph
    wider = problem.lattice.up(widths)
    gains = np.zeros(len(widths))
    for g, group in enumerate(graph.groups):
        now, then = (
            abs(curves.at(g, group.units - w[g] / graph.granularity[g])) for w in (widths, wider)
        )
        gains[g] = max(now - then, 0.0) / max(wider[g] - widths[g], 1)
    return gains
