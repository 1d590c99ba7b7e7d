"""The space that a configuration asks for: widths, the methods' own scalars, or both."""

from __future__ import annotations

from collections.abc import Mapping

from pruning import methods
from pruning.methods import Problem, State
from search.config import SearchConfig, method_names
from search.study.candidate import Limits
from search.study.method_space import MethodSpace, MixedSpace
from search.study.width_space import Space, Widths, WidthSpace


def make(
    search: SearchConfig,
    problem: Problem,
    states: Mapping[str, State],
    low: float,
    high: float,
    limits: Limits | None = None,
) -> tuple[Space, float, float]:
    """The space and the range it reaches. `low`, `high`: shares of the base model's cost."""
    names = method_names(search.method)
    widths = WidthSpace(
        problem.graph,
        problem.cost,
        problem.lattice,
        methods=names,
        low=low,
        high=high,
        offsets=search.offsets,
        offset_range=search.offset_range,
        limits=limits,
    )
    if search.proposal == "widths":
        return widths, widths.low, widths.high
    known = {name: methods.get(name) for name in names}

    def allocate(name: str, budget: float | None, scalars: Mapping[str, float]) -> Widths:
        return known[name].allocate(states[name], problem, budget, **scalars)

    threshold = MethodSpace(
        problem.cost,
        problem.lattice,
        {name: method.scalars for name, method in known.items()},
        low=widths.low,
        high=widths.high,
        allocate=allocate,
        free=[name for name, method in known.items() if not method.needs_target],
        selecting=[name for name, method in known.items() if method.scalars_select],
        limits=limits,
    )
    space = threshold if search.proposal == "threshold" else MixedSpace(widths, threshold)
    return space, widths.low, widths.high
