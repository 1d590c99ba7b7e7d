"""The study of a run: from its configuration, its base model and its ledger."""

from __future__ import annotations

from pruning.errors import UserError
from pruning.methods import Problem
from search import cluster, proposals, quantity, seeds
from search.base import Base
from search.candidate import Limits
from search.ledger import Ledger
from search.options import Config
from search.strata import Strata
from search.study import Study
from search.validation import method_names


def make_study(config: Config, base: Base, problem: Problem, share: cluster.Share) -> Study:
    """The study of a run as its ledger tells it. UserError if no width vector can be feasible."""
    limits = _limits(config, problem)
    cost = problem.cost
    low = (limits.min_macs or 0.0) / cost.base_macs
    high = (limits.max_macs or cost.base_macs) / cost.base_macs
    space, low, high = proposals.make(
        config.search, problem, base.states, max(low, 1e-6), min(high, 1.0)
    )
    if limits.max_params is not None and cost.params(problem.lattice.low) > limits.max_params:
        raise UserError(
            f"even the narrowest network has {cost.params(problem.lattice.low)} parameters; "
            "raise search.max_params or lower search.min_ratio"
        )
    names = method_names(config.search.method)
    plan = seeds.plan(problem, base.states, names, low, high) if config.search.seeds else []
    return Study(
        space,
        Ledger(config.out),
        cost,
        problem.lattice,
        sampler=config.search.sampler,
        seeds=plan,
        warm=Ledger(config.search.warm_start).rows() if config.search.warm_start else (),
        limits=limits,
        recipe=vars(config.finetune) | {"repair": config.search.repair},
        seed=config.seed,
        strata=Strata(low, high) if config.search.stratify else None,
        concurrency=share.slots,
        retry_failed=config.search.retry_failed,
    )


def _limits(config: Config, problem: Problem) -> Limits:
    def absolute(key: str, base: int) -> float | None:
        value = getattr(config.search, key)
        return None if value is None else quantity.parse(value, f"search.{key}").of(base)

    macs, params = problem.cost.base_macs, problem.cost.base_params
    return Limits(
        max_macs=absolute("max_macs", macs),
        min_macs=absolute("min_macs", macs),
        max_params=absolute("max_params", params),
    )
