"""What a search tries first: the frontier can only improve on all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pruning import methods
from pruning.graph.widths import fit, uniform
from pruning.methods import Problem, State
from search.pareto.strata import even
from search.study.candidate import Seed
from search.trial.base_model import PATH

LEVELS = 8  # MAC shares between the smallest network and the base


def plan(
    problem: Problem, states: Mapping[str, State], names: Sequence[str], low: float, high: float
) -> list[Seed]:
    """Seeds in the order to run them. names: the methods searched; low, high: shares of the base.

    The base model; uniform widths and the gain-curve path in turns over the range, its ends first,
    so that a short search covers it; then every method's own one-shot allocation.
    """
    base_macs, first = problem.cost.base_macs, names[0]
    seeds = [_seed("base", first, problem.graph.widths)] if high >= 1 else []
    shares = even(low, min(high, 0.9), LEVELS)
    for share in _outside_in(shares.tolist()):
        widths = fit(
            problem.cost, lambda t: uniform(problem.graph, problem.lattice, t), share * base_macs
        )
        seeds.append(_seed(f"uniform {share:.0%}", first, widths))
        if PATH in states:
            path = methods.get(PATH).allocate(states[PATH], problem, share * base_macs)
            seeds.append(_seed(f"{PATH} {share:.0%}", PATH, path))
    for share in shares[1:-1:2]:
        for name in names:
            if name not in (PATH, "uniform"):  # theirs are above
                widths = methods.get(name).allocate(states[name], problem, share * base_macs)
                seeds.append(_seed(f"{name} one-shot {share:.0%}", name, widths))
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
