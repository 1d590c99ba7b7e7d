"""From scores to widths: one threshold over all groups, and what is left of the budget spent."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pruning.graph import Problem


def floored(problem: Problem, share: float, budget: float) -> Problem:
    """The same problem with at least `share` of every group kept, if the budget allows it."""
    lat = problem.lattice
    least = np.ceil(share * lat.high / lat.step).astype(np.int64) * lat.step
    low = np.maximum(lat.low, np.minimum(least, lat.high))
    if problem.cost.of(low) > budget:
        return problem
    return replace(problem, lattice=replace(lat, low=low))


def global_threshold(scores: np.ndarray, problem: Problem, budget: float) -> np.ndarray:
    """Widths of one threshold on `scores` (float [units]) over all groups, within the budget.

    What the lattice leaves over is filled with the next best channels.
    """
    order = np.argsort(-scores, kind="stable")
    group_of = np.searchsorted(problem.graph.offsets, order, "right") - 1
    granularity = problem.graph.granularity

    def widths(count: int) -> np.ndarray:
        kept = np.bincount(group_of[:count], minlength=len(granularity)) * granularity
        steps = kept // problem.lattice.step * problem.lattice.step
        whole = np.where(kept >= problem.lattice.high, problem.lattice.high, steps)
        return np.maximum(whole, problem.lattice.low)

    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        if problem.cost.of(widths(middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    offsets = problem.graph.offsets
    ranked = [np.sort(scores[a:b])[::-1] for a, b in itertools.pairwise(offsets)]

    def following(w: np.ndarray) -> np.ndarray:
        """Score of the first unit that each group leaves out."""
        first = w // granularity
        return np.array([own[min(k, len(own) - 1)] for own, k in zip(ranked, first, strict=True)])

    return spend(problem, widths(low), budget, following)


def spend(
    problem: Problem,
    widths: np.ndarray,
    budget: float,
    value: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Single steps until none fits the budget, the best value for its cost at each width first.

    value(widths): what a further channel of each group is worth there, float64 [groups].
    """
    cost, lat = problem.cost, problem.lattice
    widths = widths.copy()
    while True:
        up = lat.up(widths)
        now = cost.of(widths)
        price = cost.of(np.where(np.eye(len(widths), dtype=bool), up, widths)) - now
        fits = (up > widths) & (now + price <= budget)
        if not fits.any():
            return widths
        worth = value(widths) * (up - widths) / np.maximum(price, cost.least)
        best = int(np.where(fits, worth, -np.inf).argmax())
        widths[best] = up[best]
