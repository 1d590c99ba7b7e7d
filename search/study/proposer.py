"""The Optuna study in memory: parameters out, values in, and no trial left running.

Trials end COMPLETE (complete), PRUNED (stopped, infeasible) or FAIL (failed, duplicate, abandoned).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import NSGAIIISampler, NSGAIISampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search.pareto import CostAxis, front
from search.storage import Row
from search.study import samplers
from search.study.candidate import StudyOptions
from search.study.ehvi import CUT_BY, TRIAL_ID, WIDTHS, EHVISampler
from search.study.width_space import Params, Space, WidthSpace, complete

_STATES = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,  # with a violated constraint, so that TPE keeps away
    "failed": TrialState.FAIL,
}


class Proposer:
    """Maximises the gain of the metric and minimises the cost (shares of the base's)."""

    def __init__(self, space: Space, options: StudyOptions, axis: CostAxis, groups: int) -> None:
        """`ehvi` models networks by their widths, as many as `groups`: other spaces are TPE's."""
        name = options.sampler
        self.name = "tpe" if name == "ehvi" and not isinstance(space, WidthSpace) else name
        self.space, self.seed, self.axis, self.groups = space, options.seed, axis, groups
        self.concurrency, self.metric = options.concurrency, options.metric
        self._distributions = space.distributions()
        samplers.warn_if_slow(name, len(self._distributions))
        self._history = samplers.History()
        self._scores: list[tuple[int, float, float, bool]] = []  # number, cost, gain, complete
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=self._history, directions=["maximize", "minimize"], sampler=self._sampler(0, 0)
        )
        optuna.logging.set_verbosity(verbosity)

    def propose(self, key: int, attempt: int, fixed: Mapping[str, Any] | None = None) -> int:
        """Start a trial with the sampler's parameters, some of them `fixed`; its number.

        What is drawn depends on seed, key, attempt and the history only.
        """
        self.study.sampler = self._sampler(key, attempt)
        window = self._window()
        if fixed:
            self.study.enqueue_trial(dict(fixed))
        with self._history.only(*window):
            trial = self.study.ask()
            while missing := self._missing(trial.params):
                for name, distribution in missing.items():
                    _suggest(trial, name, distribution)
        return trial.number

    def adopt(self, params: Mapping[str, Any]) -> int:
        """Start a trial with given parameters, none where the space has not those; its number."""
        distributions = complete(self.space, params)
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(params) if distributions else {},
                distributions=distributions or {},
            )
        )
        number = len(self.study.get_trials(deepcopy=False)) - 1
        sampler = self.study.sampler
        if isinstance(sampler, NSGAIISampler | NSGAIIISampler):
            # without one, a trial that the sampler did not draw is in no population
            sampler.get_trial_generation(self.study, self.trial(number))
        return number

    @property
    def covers(self) -> bool:
        """Whether the sampler itself sees to it that no part of the range is left out."""
        return self.name == "ehvi"

    def trial(self, number: int) -> FrozenTrial:
        return self._history.get_trial(number)

    def params(self, number: int) -> Params:
        return dict(self.trial(number).params)

    def params_of(self, row: Row) -> Params:
        """What the sampler could have chosen for it, if it has other parameters today."""
        params: Params = row.proposal.get("params", {})
        if complete(self.space, params) is None and len(row.widths) == self.groups:
            params = self.space.encode(row.widths, row.method)
        return params

    def mark(
        self,
        number: int,
        trial_id: str,
        widths: Sequence[int] | None,
        method: str,
        constraints: Mapping[str, float],
    ) -> None:
        """Name a running trial and its network; feasible where no constraint is above 0."""
        trial = Trial(self.study, number)
        trial.set_user_attr(TRIAL_ID, trial_id)
        trial.set_user_attr(WIDTHS, list(widths or ()))
        trial.set_user_attr(CUT_BY, method)
        for name, value in constraints.items():
            trial.set_constraint(name, value)

    def finish(self, number: int, row: Row) -> None:
        """End a running trial as its ledger row says."""
        state = _STATES[row.status]
        values = None
        if row.status == "complete":
            assert row.score_val is not None
            values = [self.metric.gain(row.score_val), self.axis.share(row)]
        elif (
            row.status == "infeasible"
            and max(self.trial(number).constraints.values(), default=0) <= 0
        ):
            Trial(self.study, number).set_constraint("measured", 1.0)  # latency, say
        self.study.tell(number, values, state)
        if state != TrialState.FAIL:
            gain = math.nan if row.score_val is None else self.metric.gain(row.score_val)
            self._scores.append((number, self.axis.of(row), gain, row.status == "complete"))

    def fail(self, number: int) -> None:
        """End a running trial that has no row: samplers ignore it."""
        Trial(self.study, number).set_user_attr(WIDTHS, [])
        self.study.tell(number, state=TrialState.FAIL)

    def _missing(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        wanted = self.space.distributions(params)
        return {name: d for name, d in wanted.items() if name not in params}

    def _window(self) -> tuple[list[int] | None, int]:
        """Trials for TPE or GP to see (best, latest, running; None: all), and the next number."""
        if self.name not in ("tpe", "gp") or len(self._scores) <= samplers.WINDOW:
            return None, 0
        numbers, cost, gain, done = (np.array(c) for c in zip(*self._scores, strict=True))
        best = np.argsort(front.ranks(np.column_stack([cost, gain]), done), kind="stable")
        half = samplers.WINDOW // 2
        shown = set(numbers[best[:half]].tolist()) | set(numbers[-half:].tolist())
        trials = self.study.get_trials(deepcopy=False)
        shown |= {t.number for t in trials if t.state == TrialState.RUNNING}
        return sorted(shown), len(trials)

    def _sampler(self, key: int, attempt: int) -> optuna.samplers.BaseSampler:
        seed = samplers.seed_of(self.seed, key, attempt)
        if self.name == "ehvi":
            assert isinstance(self.space, WidthSpace)
            return EHVISampler(self.space, seed)
        return samplers.create(
            self.name,
            seed,
            self._distributions,
            conditional=self._distributions.keys() != self.space.distributions({}).keys(),
            concurrency=self.concurrency,
        )


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    else:
        assert isinstance(distribution, FloatDistribution)
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
