"""What a search tries first: the frontier can only improve on all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from pruning import methods
from pruning.graph import fit, uniform
from pruning.methods import Problem, State
from search.pareto import even
from search.study.candidate import Limits, Seed
from search.study.limits import allowed, raised, within

PATH = "gain-curve"  # whose allocations, nested over all budgets, are among the seeds
LEVELS = 8  # shares of the cost between the smallest network and the base


def plan(
    problem: Problem,
    states: Mapping[str, State],
    names: Sequence[str],
    low: float,
    high: float,
    limits: Limits | None = None,
    budget: int | None = None,
) -> list[Seed]:
    """Seeds in the order to run them. names: the methods searched; low, high: shares of the base.

    The base model; uniform widths and the gain-curve path in turns over the range; then every
    method's own one-shot allocation. budget: trials of a search whose networks may begin with
    larger ones. If it has room for these, the range is run through from the largest to the
    smallest, so that each finds a parent that was trained; else its ends come first, so that a
    short search covers it.
    """
    limits, cost, lat, first = limits or Limits(), problem.cost, problem.lattice, names[0]

    def allocated(name: str, share: float) -> np.ndarray:
        def allocate(budget: float) -> np.ndarray:
            return methods.get(name).allocate(states[name], problem, budget)

        found = within(limits, cost, allocate, share * cost.base, cost.of(lat.low))
        return raised(limits, cost, lat, found)

    seeds = [_seed("base", first, problem.graph.widths)] if high >= 1 else []
    shares = even(low, min(high, 0.9), LEVELS)
    in_turn = budget is not None and budget > 2 * len(shares)
    for share in sorted(shares, reverse=True) if in_turn else _outside_in(shares.tolist()):
        widths = fit(
            cost,
            lambda t: uniform(problem.graph, lat, t),
            share * cost.base,
            allowed=partial(allowed, limits, cost),
        )
        widths = raised(limits, cost, lat, widths)
        seeds.append(_seed(f"uniform {share:.0%}", first, widths))
        if PATH in states:
            seeds.append(_seed(f"{PATH} {share:.0%}", PATH, allocated(PATH, share)))
    for share in shares[1:-1:2]:
        for name in names:
            if name not in (PATH, "uniform"):  # theirs are above
                seeds.append(_seed(f"{name} one-shot {share:.0%}", name, allocated(name, share)))
    return seeds


def _seed(name: str, method: str, widths: np.ndarray) -> Seed:
    return Seed(name=name, method=method, widths=tuple(widths.tolist()))


def _outside_in(values: Sequence[float]) -> list[float]:
    """Last, first, then the middle of the widest gap left, and so on."""
    left, order = list(values), []
    for value in (values[-1], values[0]):
        if value in left:
            left.remove(value)
            order.append(value)
    while left:
        nearest = [min(abs(np.sqrt(v) - np.sqrt(o)) for o in order) for v in left]
        order.append(left.pop(int(np.argmax(nearest))))
    return order
