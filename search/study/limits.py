"""What a search may visit: its limits on what networks cost, and whether anything is within."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pruning.errors import UserError
from pruning.graph import Cost, Lattice
from pruning.methods import Problem
from search.config import SearchConfig, quantity
from search.pareto import CostAxis
from search.study.candidate import Limits

ROUNDS = 12  # of halving a budget


def limits(search: SearchConfig, problem: Problem) -> Limits:
    """The search's limits as amounts; UserError where no width vector is within."""
    cost, lat = problem.cost, problem.lattice
    if not problem.graph.groups:
        raise UserError("no channels of this network can be removed; slimfront profile says why")

    def absolute(key: str, base: float, smallest: float, unit: str) -> float | None:
        value, name = getattr(search, key), f"search.{key}"
        if value is None:
            return None
        return reached(quantity.parse(value, name), f"{name} {value}", base, smallest, unit)

    found = Limits(
        max_macs=absolute("max_macs", cost.base_macs, int(cost.macs(lat.low)), "MACs"),
        min_macs=absolute("min_macs", cost.base_macs, 0, "MACs"),
        max_params=absolute(
            "max_params", cost.base_params, int(cost.params(lat.low)), "parameters"
        ),
        max_latency_ms=None
        if cost.latency is None
        else absolute(
            "max_latency_ms", float(cost.latency(lat.high)), float(cost.latency(lat.low)), "ms"
        ),
    )
    if found.min_macs is not None and found.min_macs > cost.base_macs:
        raise UserError(
            f"search.min_macs {search.min_macs} cannot be met: the base model has "
            f"{quantity.human(cost.base_macs)} MACs; lower it"
        )
    least, most = found.min_macs, found.max_macs
    if least is not None and most is not None and least >= most:
        raise UserError(
            f"search.min_macs {search.min_macs} is not below search.max_macs {search.max_macs}; "
            "lower it"
        )
    reach(cost, lat, *shares(found, cost), found)
    return found


def reached(asked: quantity.Quantity, said: str, base: float, smallest: float, unit: str) -> float:
    """The amount of what was asked for; UserError where even the smallest slim version has more.

    said: how it was asked for; base, smallest: of the whole network and of the narrowest.
    """
    limit = asked.of(base)
    if limit < smallest:
        least, whole = quantity.human(smallest), quantity.human(base)
        raise UserError(
            f"{said} cannot be met: the smallest slim version has {least} {unit}, "
            f"{smallest / base:.1%} of {whole}; raise it, or lower search.min_ratio or "
            "search.divisor"
        )
    return limit


def shares(bounds: Limits, cost: Cost) -> tuple[float, float]:
    """The limits on what is to be saved, as shares of the base model's."""
    low = (bounds.min_macs or 0.0) / cost.base if cost.objective == "macs" else 0.0
    _, most = bounds.upper(cost).get(_own(cost), (None, cost.base))
    return max(low, 1e-6), min(most / cost.base, 1.0)


def reach(
    cost: Cost, lat: Lattice, low: float, high: float, bounds: Limits | None = None
) -> tuple[float, float]:
    """The part of [low, high] that the lattice reaches, as shares of the base model's cost."""
    least = cost.of(lat.low) / cost.base
    most = cost.of(_largest(cost, lat, bounds or Limits())) / cost.base
    asked, (low, high) = (low, high), (max(low, least), min(high, most))
    if low >= high:
        word = CostAxis(cost.objective).word
        raise UserError(
            f"no choice of widths within {asked[0]:.1%} to {asked[1]:.1%} of the base {word} "
            f"(reachable: {least:.1%} to {most:.1%}); widen the limits, lower search.min_ratio "
            "or search.divisor"
        )
    return low, high


def within(
    bounds: Limits,
    cost: Cost,
    allocate: Callable[[float], np.ndarray],
    budget: float,
    least: float,
) -> np.ndarray:
    """What `allocate` gives for a budget, or for the largest that keeps to the other limits."""

    def fits(widths: np.ndarray) -> bool:
        return allowed(bounds, cost, widths)

    widths = allocate(budget)
    if fits(widths):
        return widths
    low, high = least, budget
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if fits(allocate(middle)):
            low = middle
        else:
            high = middle
    return allocate(low)


def allowed(bounds: Limits, cost: Cost, widths: np.ndarray) -> bool:
    """Whether one network keeps to the upper limits besides that on what is to be saved."""
    return bool(bounds.load(cost, widths[None], besides=_own(cost))[0] <= 1)


def raised(bounds: Limits, cost: Cost, lat: Lattice, widths: np.ndarray) -> np.ndarray:
    """Widths that fall below min_macs by a step of the lattice, brought above it by further steps.

    By the smallest that there are, at the end by one wider and another narrower. As they were
    where no such step stays within the limits.
    """
    least = bounds.min_macs
    found = widths
    while least is not None and cost.macs(found) < least:
        wider = _steps(found, lat.up(found))
        macs = cost.macs(wider)
        room = (macs > cost.macs(found)) & (bounds.load(cost, wider) <= 1)
        if not room.any():
            swapped = np.concatenate([_steps(row, lat.down(found)) for row in wider])
            swapped = swapped[(cost.macs(swapped) >= least) & (bounds.load(cost, swapped) <= 1)]
            return swapped[0] if len(swapped) else widths
        found = wider[int(np.where(room, macs, np.iinfo(np.int64).max).argmin())]
    return found


def _steps(widths: np.ndarray, stepped: np.ndarray) -> np.ndarray:
    """int64 [groups, groups]: row g has group g stepped."""
    rows = np.tile(widths, (len(widths), 1))
    np.fill_diagonal(rows, stepped)
    return rows


def _own(cost: Cost) -> str:
    """Name of the upper limit on what is to be saved."""
    return "max_latency_ms" if cost.objective == "latency" else f"max_{cost.objective}"


def _largest(cost: Cost, lat: Lattice, bounds: Limits) -> np.ndarray:
    """About the most that keeps to the other upper limits: steps by what they add for their use."""

    def load(rows: np.ndarray) -> np.ndarray:
        return bounds.load(cost, rows, besides=_own(cost))

    if load(lat.high[None])[0] <= 1:
        return lat.high
    widths = lat.low
    while True:
        wider = _steps(widths, lat.up(widths))
        used, gain = load(wider), cost.of(wider) - cost.of(widths)
        room = (gain > 0) & (used <= 1)
        if not room.any():
            return widths
        price = np.maximum(used - load(widths[None])[0], 1e-12)
        widths = wider[int(np.where(room, gain / price, -np.inf).argmax())]
