"""What a search may visit: its limits on MACs and parameters, and whether anything is within."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pruning.errors import UserError
from pruning.graph import Cost, Lattice
from pruning.methods import Problem
from search.config import SearchConfig, quantity
from search.study.candidate import Limits

ROUNDS = 12  # of halving the range of MACs


def limits(search: SearchConfig, problem: Problem) -> Limits:
    """The search's limits in MACs and parameters; UserError where no width vector is within."""
    cost, lat = problem.cost, problem.lattice
    if not problem.graph.groups:
        raise UserError("no channels of this network can be removed; slimfront profile says why")

    def absolute(key: str, base: int, smallest: int, unit: str) -> float | None:
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
    mac_range(cost, lat, *shares(found, problem), found.max_params)
    return found


def reached(asked: quantity.Quantity, said: str, base: int, smallest: int, unit: str) -> float:
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


def shares(bounds: Limits, problem: Problem) -> tuple[float, float]:
    """The limits on MACs as shares of the base model's."""
    base = problem.cost.base_macs
    low = (bounds.min_macs or 0.0) / base
    high = (bounds.max_macs or base) / base
    return max(low, 1e-6), min(high, 1.0)


def mac_range(
    cost: Cost, lat: Lattice, low: float, high: float, max_params: float | None = None
) -> tuple[float, float]:
    """The part of [low, high] that the lattice reaches, as shares of the base MACs."""
    least = cost.macs(lat.low) / cost.base_macs
    most = cost.macs(_largest(cost, lat, max_params)) / cost.base_macs
    asked, (low, high) = (low, high), (max(low, least), min(high, most))
    if low >= high:
        raise UserError(
            f"no choice of widths within {asked[0]:.1%} to {asked[1]:.1%} of the base MACs "
            f"(reachable: {least:.1%} to {most:.1%}); widen the MAC limits, lower search.min_ratio "
            "or search.divisor"
        )
    return low, high


def within(
    limits: Limits, cost: Cost, allocate: Callable[[float], np.ndarray], macs: float, least: float
) -> np.ndarray:
    """What `allocate` gives for `macs`, or for the most MACs at which its parameters are within."""
    widths, bound = allocate(macs), limits.max_params
    if bound is None or cost.params(widths) <= bound:
        return widths
    low, high = least, macs
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if cost.params(allocate(middle)) <= bound:
            low = middle
        else:
            high = middle
    return allocate(low)


def raised(limits: Limits, cost: Cost, lat: Lattice, widths: np.ndarray) -> np.ndarray:
    """Widths that fall below min_macs by a step of the lattice, brought above it by further steps.

    By the smallest that there are, at the end by one wider and another narrower. As they were
    where no such step stays within the limits.
    """
    least = limits.min_macs
    found = widths
    while least is not None and cost.macs(found) < least:
        wider = _steps(found, lat.up(found))
        macs = cost.macs(wider)
        room = (macs > cost.macs(found)) & _below(limits, cost, wider)
        if not room.any():
            swapped = np.concatenate([_steps(row, lat.down(found)) for row in wider])
            swapped = swapped[(cost.macs(swapped) >= least) & _below(limits, cost, swapped)]
            return swapped[0] if len(swapped) else widths
        found = wider[int(np.where(room, macs, np.iinfo(np.int64).max).argmin())]
    return found


def _steps(widths: np.ndarray, stepped: np.ndarray) -> np.ndarray:
    """int64 [groups, groups]: row g has group g stepped."""
    rows = np.tile(widths, (len(widths), 1))
    np.fill_diagonal(rows, stepped)
    return rows


def _below(limits: Limits, cost: Cost, rows: np.ndarray) -> np.ndarray:
    """bool [N]: whether MACs and parameters are within their upper limits."""
    good = np.ones(len(rows), dtype=bool)
    if limits.max_macs is not None:
        good &= cost.macs(rows) <= limits.max_macs
    if limits.max_params is not None:
        good &= cost.params(rows) <= limits.max_params
    return good


def _largest(cost: Cost, lat: Lattice, max_params: float | None) -> np.ndarray:
    """About the most MACs within a limit on parameters: steps by what they add for a parameter."""
    if max_params is None or cost.params(lat.high) <= max_params:
        return lat.high
    widths = lat.low
    while True:
        wider = _steps(widths, lat.up(widths))
        params, gain = cost.params(wider), cost.macs(wider) - cost.macs(widths)
        room = (gain > 0) & (params <= max_params)
        if not room.any():
            return widths
        price = np.maximum(params - cost.params(widths), 1)
        widths = wider[int(np.where(room, gain / price, -np.inf).argmax())]
