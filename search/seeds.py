"""What a search tries first: the frontier can only improve on all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pruning import methods
from pruning.methods import Problem, State
from pruning.widths import fit, uniform
from search.candidate import Seed

UNIFORM_LEVELS = 8  # MAC shares, even in log, between the smallest network and the base


def plan(problem: Problem, states: Mapping[str, State], low: float, high: float) -> list[Seed]:
    """Seeds in the order to run them; `low`, `high`: MACs as shares of the base.

    The base model, uniform widths over the range, then every method's own one-shot allocation;
    the ends of the range first, so that a short search covers it.
    """
    first = next(iter(states))
    seeds = [_seed("base", first, problem.graph.widths)] if high >= 1 else []
    shares = np.geomspace(low, min(high, 0.9), UNIFORM_LEVELS)
    for share in _outside_in(shares.tolist()):
        target = share * problem.cost.base_macs
        widths = fit(problem.cost, lambda t: uniform(problem.graph, problem.lattice, t), target)
        seeds.append(_seed(f"uniform {share:.0%}", first, widths))
    for share in shares[1:-1:2]:
        for name, state in states.items():
            macs = share * problem.cost.base_macs
            widths = methods.get(name).allocate(state, problem, macs)
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
        nearest = [min(abs(np.log(v / o)) for o in order) for v in left]
        order.append(left.pop(int(np.argmax(nearest))))
    return order
