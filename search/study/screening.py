"""Screening before fine-tuning: does a trial promise to add anything to the frontier?

Rung 0, the accuracy after repair and before any gradient step, is cheap and faithful. From the
trials that have ended, rung 0 and MACs foretell the accuracy at the end (ridge regression of the
lift in log odds); what counts is the hypervolume that the foretold point adds to the points of all
trials that ended or go on. So a trial in a gap of the frontier is worth more than a better one in
a crowd, which ranks cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.pareto import Reference, Strata, front
from search.storage import Row

WINDOW = 50  # trials with which one is compared: the last
FEWEST = 4  # trials that have ended, before anything is foretold
RIDGE = 0.1
Array = NDArray[np.float64]
Point = tuple[int, float]
"""MACs and gain."""


class Screening:
    """Decides at rung 0; one trial of `factor` goes on. No Ray in here."""

    def __init__(self, factor: float, strata: Strata, reference: Reference) -> None:
        self.factor, self.strata, self.reference = factor, strata, reference
        self.metric = reference.metric
        self._scores: dict[str, Point] = {}  # at rung 0, by trial
        self._on: set[str] = set()  # trials that go on and have not ended

    def learn(self, rows: Iterable[Row]) -> None:
        """Rung 0 of an earlier session's rows."""
        for row in rows:
            # the base model has no rung 0: it is complete without any training
            if row.score_repaired is not None and (row.epochs or row.status == "stopped"):
                self._scores[row.trial_id] = row.macs, self.metric.gain(row.score_repaired)

    def judge(self, trial: str, macs: int, score: float, rows: Iterable[Row]) -> str | None:
        """None where a trial goes on, else the reason why it does not.

        `score` at rung 0; `rows`: all trials that have ended. A trial is judged once: one that
        began anew (after running out of memory, say) goes on.
        """
        if trial in self._scores or not math.isfinite(score):
            return None
        self._scores[trial] = macs, self.metric.gain(score)
        rows = list(rows)
        self._on -= {row.trial_id for row in rows}
        ended = {
            row.trial_id: (row.macs, self.metric.gain(row.score_val))
            for row in rows
            if row.status == "complete" and row.score_val is not None
        }
        taken = [*(macs for macs, _ in ended.values()), *(self._scores[t][0] for t in self._on)]
        trained = {name: end for name, (_, end) in ended.items() if name in self._scores}
        going, recent = list(self._on), list(self._scores)[-WINDOW:]
        self._on.add(trial)
        if len(trained) < FEWEST or self._bins([macs])[0] not in self._bins(taken):
            return None
        ends = self._foretell(trained, [*going, *recent])
        foretold = {name: (self._scores[name][0], gain) for name, gain in ends.items()}
        gains = self._gains(ended | {name: foretold[name] for name in going}, recent, foretold)
        place = int((gains > gains[-1]).sum())
        if gains[-1] > 0 and place < math.ceil(len(gains) / self.factor):
            return None
        self._on.discard(trial)
        now, end = self.metric.show(score), self.metric.show(self.metric.gain(ends[trial]))
        return (
            f"{now} before fine-tuning at {macs / self.reference.base_macs:.0%} of the MACs "
            f"promises {end}: place {place + 1} of {len(gains)} by what it adds to "
            f"the frontier; one of {self.factor:g} goes on"
        )

    def _bins(self, macs: Sequence[int]) -> NDArray[np.int64]:
        return self.strata.index(np.array(macs, dtype=np.float64) / self.reference.base_macs)

    def _foretell(self, trained: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
        """Gain at the end of trials by their rung 0, from the ends of those trained."""
        known = np.array([self._scores[name] for name in trained], dtype=np.float64)
        asked = np.array([self._scores[name] for name in names], dtype=np.float64)
        X, lift = self._features(known), self._odds([*trained.values()]) - self._odds(known[:, 1])
        weights = np.linalg.solve(X.T @ X + RIDGE * np.eye(X.shape[1]), X.T @ lift)
        odds = self._odds(asked[:, 1]) + self._features(asked) @ weights
        return dict(zip(names, self._gain_of(odds).tolist(), strict=True))

    def _odds(self, gains: ArrayLike) -> Array:
        """Log odds of fractions; other gains by their share of the way to perfection."""
        plain = self.metric.fraction and self.metric.rises
        return _log_odds(gains if plain else self.reference.share(gains))

    def _gain_of(self, odds: Array) -> Array:
        """The inverse of `_odds`."""
        share = 1 / (1 + np.exp(-odds))
        if self.metric.fraction and self.metric.rises:
            return share
        return self.reference.gain + share * (self.reference.best - self.reference.gain)

    def _features(self, scores: Array) -> Array:
        """Second-order terms of the log share of the MACs and the log odds."""
        m, r = np.log(scores[:, 0] / self.reference.base_macs), self._odds(scores[:, 1])
        return np.column_stack([np.ones_like(m), m, r, m * m, m * r, r * r])

    def _gains(
        self, points: Mapping[str, Point], recent: Sequence[str], foretold: Mapping[str, Point]
    ) -> Array:
        """Hypervolume that each of `recent` adds to `points`, or would be lost without it."""
        index = {name: i for i, name in enumerate(points)}
        values = np.array(list(points.values()), dtype=np.float64)
        volume = front.hypervolume(values, self.reference)
        gains = []
        for name in recent:
            if name in index:
                less = np.delete(values, index[name], axis=0)
                gains.append(volume - front.hypervolume(less, self.reference))
            else:
                more = np.vstack([values, foretold[name]])
                gains.append(front.hypervolume(more, self.reference) - volume)
        return np.array(gains)


def _log_odds(share: ArrayLike) -> Array:
    bounded = np.clip(share, 1e-3, 1 - 1e-3)
    return np.log(bounded / (1 - bounded))
