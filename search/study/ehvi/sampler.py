"""A sampler that models the score only: expected hypervolume improvement with the cost exact.

Optuna's samplers learn the cost as a second black box; it is a closed form of the widths. Each
proposal is the best of some hundred networks around the frontier and over the whole space, by the
hypervolume that it is expected to add. Trials that run count as if they had ended as foretold
(kriging believer), so that many workers are given different networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from search.pareto import front
from search.study.ehvi.improvement import Steps
from search.study.ehvi.moves import Candidates, Moves
from search.study.ehvi.surrogate import Array, Inputs, Networks, Surrogate
from search.study.width_space import RATIO, WidthSpace

FEWEST = 6  # scores, before anything is modelled
RANDOM, MUTANTS = 64, 512  # networks from which the best is taken
ROUNDS, KEPT, MORE = 2, 16, 128  # so often, so many of the best have so many mutants
NEAR = 1.15  # times the cost asked for, or less, where these are given
TRIES = 12  # rounds of mutants where limits leave little room
TRIAL_ID, WIDTHS, CUT_BY = "trial_id", "widths", "method"  # user attributes of trials
WARM = "warm "  # begins the names of another run's trials: they teach, and may be run again
WINDOW = 256  # scores that the model sees: the best half and the latest half


class EHVISampler(BaseSampler):
    """Optuna sampler of a WidthSpace's parameters; user attributes tell the trials' networks.

    Nothing known or beyond the space's limits is proposed.
    """

    def __init__(self, space: WidthSpace, seed: int = 0) -> None:
        self.space = space
        self.rng = np.random.default_rng(seed)
        self.moves = Moves(space, self.rng)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The network that is expected to add most; a random one while little is known."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(WIDTHS)]
        done = _networks([t for t in trials if t.state == TrialState.COMPLETE])
        taken = {_key(t) for t in trials if not t.user_attrs[TRIAL_ID].startswith(WARM)}
        share = trial.system_attrs.get("fixed_params", {}).get(RATIO)
        found = self._best(done, trials, taken, share) if len(done) >= FEWEST else None
        if found is None:
            found = self._apart(self._within(self.moves.random(RANDOM), taken, share), trials)
        return self.moves.params(found[:1]) if len(found) else {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        draw = RandomSampler(seed=int(self.rng.integers(2**31))).sample_independent
        return draw(study, trial, param_name, param_distribution)

    def _best(
        self, done: Networks, trials: Sequence[FrozenTrial], taken: set[Any], share: float | None
    ) -> Candidates:
        """Candidates, best first. share: of the base's cost, where that is given."""
        space = self.space
        methods = tuple(dict.fromkeys((*space.methods, *done.methods)))
        inputs = Inputs(space.cost, space.graph.widths, self.moves.stages, methods)
        # what was stopped early is no score either, and nothing more is to be had beside it
        pending = [t for t in trials if t.state == TrialState.RUNNING or _stopped(t)]
        model = Surrogate(inputs, self._window(done)).believing(_networks(pending))
        smoothed, _ = model.predict(model.known)
        steps = Steps.around(self.moves.costs(model.known), smoothed)
        feasible = _feasible(inputs, done, _networks([t for t in trials if _refused(t)]))

        def gains(candidates: Candidates) -> Array:
            mean, std = model.predict(candidates.networks)
            gain = steps.gain(self.moves.costs(candidates.networks), mean, std)
            return gain * (_probable(feasible, candidates.networks) if feasible else 1.0)

        parents = self.moves.encode(model.known[steps.members])
        pool = self.moves.random(RANDOM) + self.moves.mutants(parents, MUTANTS)
        found = self._within(pool, taken, share)
        values = gains(found) if len(found) else np.zeros(0)
        for _ in range(ROUNDS if len(found) else 0):
            best = found[np.argsort(-values, kind="stable")[:KEPT]]
            more = self._allowed(self.moves.mutants(best.shares, MORE), taken, share)
            found, values = found + more, np.append(values, gains(more) if len(more) else [])
        return found[np.argsort(-values, kind="stable")]

    def _window(self, done: Networks) -> Networks:
        """The best and the latest, where there are too many for a proposal's milliseconds."""
        if len(done) <= WINDOW:
            return done
        rank = front.ranks(np.column_stack([self.moves.costs(done), done.scores]))
        latest = np.arange(len(done) - WINDOW // 2, len(done))
        best = np.setdiff1d(np.argsort(rank, kind="stable"), latest, assume_unique=True)
        return done[np.sort(np.append(best[: WINDOW // 2], latest))]

    def _apart(self, found: Candidates, trials: Sequence[FrozenTrial]) -> Candidates:
        """Candidates, the one farthest from all trials first."""
        if not len(found) or not trials:
            return found
        old, new = self.moves.encode(_networks(trials)), found.shares
        nearest = np.abs(new[:, None] - old[None]).mean(2).min(1)
        return found[np.argsort(-nearest, kind="stable")]

    def _within(self, pool: Candidates, taken: set[Any], share: float | None) -> Candidates:
        """Those allowed; where these are few, also mutants of what misses the limits by least."""
        found = self._allowed(pool, taken, share)
        for _ in range(TRIES):
            if len(found) >= KEPT:
                break
            nearest = np.argsort(self._missed(pool, share), kind="stable")[:KEPT]
            pool = self.moves.mutants(pool.shares[nearest], MUTANTS)
            found = found + self._allowed(pool, taken, share)
        return found

    def _allowed(self, pool: Candidates, taken: set[Any], share: float | None) -> Candidates:
        """Those within the limits, each once and not `taken`."""
        seen, kept = set(taken), []
        for i in np.flatnonzero(self._missed(pool, share) <= 0):
            key = (tuple(pool.networks.W[i].tolist()), pool.networks.methods[i])
            if key not in seen:
                seen.add(key)
                kept.append(int(i))
        return pool[kept]

    def _missed(self, pool: Candidates, share: float | None) -> Array:
        """By how much [N] each misses the limits, in logs; 0 within. share: of the cost."""
        costs, (low, high) = self.moves.costs(pool.networks), (self.space.low, self.space.high)
        if share is not None:
            low, high = max(low, share / NEAR), min(high, share * NEAR)
        missed = np.maximum(np.log(costs / high), np.log(low / costs)).clip(0)
        missed += self.space.limits.missed(self.space.cost, pool.networks.W)
        return np.where(missed < 1e-9, 0.0, missed)


def _feasible(inputs: Inputs, met: Networks, missed: Networks) -> Surrogate | None:
    """Who meets what only running a network can tell: a limit on latency, say."""
    if not len(missed):
        return None
    truth = np.concatenate([np.ones(len(met)), np.zeros(len(missed))])
    both = met + missed
    return Surrogate(inputs, Networks(both.W, both.methods, truth))


def _probable(feasible: Surrogate, networks: Networks) -> Array:
    """Probabilities [N] that networks meet such a limit."""
    mean, std = feasible.predict(networks)
    return np.asarray(ndtr((mean - 0.5) / std))


def _networks(trials: Sequence[FrozenTrial]) -> Networks:
    groups = len(trials[0].user_attrs[WIDTHS]) if trials else 0
    W = np.zeros((len(trials), groups), dtype=np.int64)
    for row, trial in zip(W, trials, strict=True):
        row[:] = trial.user_attrs[WIDTHS]
    scores = [t.values[0] if t.state == TrialState.COMPLETE else np.nan for t in trials]
    return Networks(W, tuple(t.user_attrs[CUT_BY] for t in trials), np.array(scores, float))


def _key(trial: FrozenTrial) -> tuple[tuple[int, ...], str]:
    return tuple(trial.user_attrs[WIDTHS]), trial.user_attrs[CUT_BY]


def _stopped(trial: FrozenTrial) -> bool:
    """Whether it ended early, and not for a limit."""
    return trial.state == TrialState.PRUNED and max(trial.constraints.values(), default=0) <= 0


def _refused(trial: FrozenTrial) -> bool:
    """Whether it missed a limit that only running it could tell."""
    return trial.state == TrialState.PRUNED and trial.constraints.get("measured", 0) > 0
