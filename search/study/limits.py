"""What a search may visit: its limits on MACs and parameters, and whether anything is within."""

from __future__ import annotations

from pruning.errors import UserError
from pruning.graph.cost import Cost
from pruning.graph.widths import Lattice
from pruning.methods import Problem
from search.config import quantity
from search.config.schema import SearchConfig
from search.study.candidate import Limits


def limits(search: SearchConfig, problem: Problem) -> Limits:
    """The search's limits in MACs and parameters; UserError where no width vector is within."""

    def absolute(key: str, base: int) -> float | None:
        value = getattr(search, key)
        return None if value is None else quantity.parse(value, f"search.{key}").of(base)

    cost = problem.cost
    found = Limits(
        max_macs=absolute("max_macs", cost.base_macs),
        min_macs=absolute("min_macs", cost.base_macs),
        max_params=absolute("max_params", cost.base_params),
    )
    mac_range(cost, problem.lattice, *shares(found, problem))
    least = cost.params(problem.lattice.low)
    if found.max_params is not None and least > found.max_params:
        raise UserError(
            f"even the narrowest network has {least} parameters; "
            "raise search.max_params or lower search.min_ratio"
        )
    return found


def shares(bounds: Limits, problem: Problem) -> tuple[float, float]:
    """The limits on MACs as shares of the base model's."""
    base = problem.cost.base_macs
    low = (bounds.min_macs or 0.0) / base
    high = (bounds.max_macs or base) / base
    return max(low, 1e-6), min(high, 1.0)


def mac_range(cost: Cost, lat: Lattice, low: float, high: float) -> tuple[float, float]:
    """The part of [low, high] that the lattice reaches, as shares of the base MACs."""
    least = cost.macs(lat.low) / cost.base_macs
    most = cost.macs(lat.high) / cost.base_macs
    asked, (low, high) = (low, high), (max(low, least), min(high, most))
    if low >= high:
        raise UserError(
            f"no choice of widths within {asked[0]:.1%} to {asked[1]:.1%} of the base MACs "
            f"(reachable: {least:.1%} to {most:.1%}); widen the MAC limits, lower search.min_ratio "
            "or search.divisor"
        )
    return low, high
