"""Screening before fine-tuning: does a trial promise to add anything to the frontier?

Rung 0, the accuracy after repair and before any gradient step, is cheap and faithful. From the
trials that have ended, rung 0 and MACs foretell the accuracy at the end (ridge regression of the
lift in log odds); what counts is the hypervolume that the foretold point adds to the points of all
trials that ended or go on. So a trial in a gap of the frontier is worth more than a better one in
a crowd, which ranks cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from search import pareto
from search.ledger import Row
from search.pareto import Reference
from search.strata import Strata

WINDOW = 50  # trials with which one is compared: the last
FEWEST = 4  # trials that have ended, before anything is foretold
RIDGE = 0.1
Array = NDArray[np.float64]


class Screening:
    """Decides at rung 0; one trial of `factor` goes on. No Ray in here."""

    def __init__(self, factor: float, strata: Strata, reference: Reference) -> None:
        self.factor, self.strata, self.reference = factor, strata, reference
        self._scores: dict[str, tuple[int, float]] = {}  # trial: MACs, top-1 at rung 0
        self._on: set[str] = set()

    def learn(self, rows: Iterable[Row]) -> None:
        """Rung 0 of an earlier session's rows."""
        for row in rows:
            # the base model has no rung 0: it is complete without any training
            if row.top1_recalibrated is not None and (row.epochs or row.status == "stopped"):
                self._scores[row.trial_id] = row.macs, row.top1_recalibrated
                if row.epochs:
                    self._on.add(row.trial_id)

    def judge(self, trial: str, macs: int, top1: float, rows: Iterable[Row]) -> str | None:
        """None where a trial goes on, else the reason why it does not.

        `top1` at rung 0; `rows`: all trials that have ended. A trial is judged once: one that began
        anew (after running out of memory, say) goes on.
        """
        if trial in self._scores or not math.isfinite(top1):
            return None
        self._scores[trial] = macs, top1
        rows = list(rows)
        ended = {row.trial_id: row.status for row in rows}
        whole = [row for row in rows if row.status == "complete" and row.top1_val is not None]
        trained = [row for row in whole if row.epochs and row.trial_id in self._scores]
        going = [name for name in self._on if name not in ended]
        others = [(row.macs, row.top1_val) for row in whole]
        bins = self._bins([*(macs for macs, _ in others), *(self._scores[t][0] for t in going)])
        self._on.add(trial)
        if len(trained) < FEWEST or self._bins([macs])[0] not in bins:
            return None
        recent = list(self._scores)[-WINDOW:]
        names = [*going, *recent]
        foretold = dict(zip(names, self._foretell(trained, names), strict=True))
        others += [(self._scores[name][0], foretold[name]) for name in going]
        names = [*(row.trial_id for row in whole), *going]
        gains = self._gains(np.array(others, dtype=np.float64), names, recent, foretold)
        place = int((gains > gains[-1]).sum())
        if gains[-1] > 0 and place < math.ceil(len(gains) / self.factor):
            return None
        self._on.discard(trial)
        return (
            f"{top1:.1%} before fine-tuning at {macs / self.reference.base_macs:.0%} of the MACs "
            f"promises {foretold[trial]:.1%}: place {place + 1} of {len(gains)} by what it adds to "
            f"the frontier; one of {self.factor:g} goes on"
        )

    def _bins(self, macs: Sequence[int]) -> NDArray[np.int64]:
        return self.strata.index(np.array(macs, dtype=np.float64) / self.reference.base_macs)

    def _foretell(self, trained: Sequence[Row], names: Sequence[str]) -> Array:
        """Top-1 at the end of trials by their rung 0, from those that have been trained."""
        known = np.array([self._scores[row.trial_id] for row in trained], dtype=np.float64)
        asked = np.array([self._scores[name] for name in names], dtype=np.float64)
        ends = _log_odds(np.array([row.top1_val for row in trained], dtype=np.float64))
        X, lift = self._features(known), ends - _log_odds(known[:, 1])
        weights = np.linalg.solve(X.T @ X + RIDGE * np.eye(X.shape[1]), X.T @ lift)
        return 1 / (1 + np.exp(-_log_odds(asked[:, 1]) - self._features(asked) @ weights))

    def _features(self, scores: Array) -> Array:
        """Second-order terms of the log share of the MACs and the log odds."""
        m, r = np.log(scores[:, 0] / self.reference.base_macs), _log_odds(scores[:, 1])
        return np.column_stack([np.ones_like(m), m, r, m * m, m * r, r * r])

    def _gains(
        self, points: Array, names: Sequence[str], recent: Sequence[str], foretold: dict[str, float]
    ) -> Array:
        """Hypervolume that each of `recent` adds to `points`, or would be lost without it."""
        index = {name: i for i, name in enumerate(names)}
        volume = pareto.hypervolume(points, self.reference)
        gains = []
        for name in recent:
            if name in index:
                less = np.delete(points, index[name], axis=0)
                gains.append(volume - pareto.hypervolume(less, self.reference))
            else:
                more = np.vstack([points, (self._scores[name][0], foretold[name])])
                gains.append(pareto.hypervolume(more, self.reference) - volume)
        return np.array(gains)


def _log_odds(top1: Array) -> Array:
    bounded = np.clip(top1, 1e-3, 1 - 1e-3)
    return np.log(bounded / (1 - bounded))
