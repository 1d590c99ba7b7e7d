"""The study of a run: from its configuration, its base model and its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pruning.methods import Problem, State
from search.config import Config, method_names
from search.pareto import TOP1, Metric, Strata
from search.storage import Ledger, Row
from search.study import limits as reach
from search.study import spaces, warm_start
from search.study.candidate import Seed, StudyOptions, predicted
from search.study.study import Study


def make_study(
    config: Config,
    states: Mapping[str, State],
    problem: Problem,
    concurrency: int,
    metric: Metric = TOP1,
) -> Study:
    """The study of a run as its ledger tells it. UserError if no width vector can be feasible.

    states: what each method measured of the base model; concurrency: trials at one time.
    """
    limits, cost = reach.limits(config.search, problem), problem.cost
    low, high = reach.shares(limits, cost)
    space, low, high = spaces.make(config.search, problem, states, low, high, limits)
    names = method_names(config.search.method)
    budget = config.trials if config.search.parents else None
    plan: list[Seed] = []
    if config.search.seeds:
        plan = warm_start.plan(problem, states, names, low, high, limits, budget)
    options = StudyOptions(
        sampler=config.search.sampler,
        seeds=plan,
        warm=_warm(config.search.warm_start, problem),
        limits=limits,
        recipe=config.finetune.told() | {"repair": config.search.repair},
        seed=config.seed,
        strata=Strata(low, high) if config.search.stratify else None,
        concurrency=concurrency,
        retry_failed=config.search.retry_failed,
        parents=config.search.parents,
        metric=metric,
    )
    return Study(space, Ledger(config.out), cost, problem.lattice, options)


def _warm(place: str | None, problem: Problem) -> Sequence[Row]:
    """Rows of another run; their milliseconds are this run's, which may have another device."""
    if place is None:
        return ()
    groups = len(problem.graph.groups)
    return [
        replace(row, predicted_ms=predicted(problem.cost, row.widths))
        if len(row.widths) == groups
        else row
        for row in Ledger(place).rows()
    ]
