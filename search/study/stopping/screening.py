"""Screening before fine-tuning: does a trial promise to add anything to the frontier?

The score of the repaired network, before any gradient step, is cheap and faithful. From the trials
that have ended, it and the cost foretell the score at the end (ridge regression of the lift in log
odds); what counts is the hypervolume that the foretold point adds to the points of all trials that
ended or go on. So a trial in a gap of the frontier is worth more than a better one in a crowd,
which ranks cannot tell.
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
Point = tuple[float, float]
"""Cost and gain."""


class Screening:
    """Decides by the score before training; one trial of `factor` goes on. No Ray in here."""

    def __init__(self, factor: float, strata: Strata, reference: Reference) -> None:
        self.factor, self.strata, self.reference = factor, strata, reference
        self.metric, self.axis = reference.metric, reference.axis
        self._before: dict[str, Point] = {}  # before training, by trial, in order of time
        self._training: set[str] = set()  # trials that go on and have not ended

    def learn(self, rows: Iterable[Row]) -> None:
        """Scores before training of an earlier session's rows."""
        for row in rows:
            # the base model has none: it is complete without any training
            if row.score_repaired is not None and (row.epochs or row.status == "stopped"):
                self._before[row.trial_id] = (
                    self.axis.of(row),
                    self.metric.gain(row.score_repaired),
                )

    def judge(self, trial: str, cost: float, score: float, rows: Iterable[Row]) -> str | None:
        """None where a trial goes on, else the reason why it does not.

        `cost` on the axis of the reference, `score` before training; `rows`: all trials that have
        ended. A trial is judged once: one that began anew (after running out of memory, say) goes
        on.
        """
        if trial in self._before or not math.isfinite(score):
            return None
        self._before[trial] = cost, self.metric.gain(score)
        rows = list(rows)
        self._training -= {row.trial_id for row in rows}
        going = list(self._training)
        self._training.add(trial)
        ended = {
            row.trial_id: (self.axis.of(row), self.metric.gain(row.score_val))
            for row in rows
            if row.status == "complete" and row.score_val is not None
        }
        trained = {name: end for name, (_, end) in ended.items() if name in self._before}
        taken = [point[0] for point in ended.values()] + [self._before[name][0] for name in going]
        if len(trained) < FEWEST or self._bins([cost])[0] not in self._bins(taken):
            return None

        rivals = list(self._before)[-WINDOW:]  # the trial is the last of them
        foretold = self._foretell(trained, [*going, *rivals])
        points = ended | {name: foretold[name] for name in going}
        gains = self._gains(points, {name: foretold[name] for name in rivals})
        gain, place = gains[-1], int((gains > gains[-1]).sum())
        if gain > 0 and place < math.ceil(len(gains) / self.factor):
            return None
        self._training.discard(trial)
        end = self.metric.gain(foretold[trial][1])
        return (
            f"{self.metric.show(score)} before fine-tuning at "
            f"{cost / self.reference.cost:.0%} of the {self.axis.word} promises "
            f"{self.metric.show(end)}: place {place + 1} of {len(gains)} by what it adds to the "
            f"frontier; one of {self.factor:g} goes on"
        )

    def _bins(self, costs: Sequence[float]) -> NDArray[np.int64]:
        return self.strata.index(np.array(costs, dtype=np.float64) / self.reference.cost)

    def _foretell(self, trained: Mapping[str, float], names: Sequence[str]) -> dict[str, Point]:
        """Cost and the gain at the end of trials, learnt from the ends of those trained."""
        known = np.array([self._before[name] for name in trained], dtype=np.float64)
        asked = np.array([self._before[name] for name in names], dtype=np.float64)
        X, lift = self._features(known), self._odds([*trained.values()]) - self._odds(known[:, 1])
        weights = np.linalg.solve(X.T @ X + RIDGE * np.eye(X.shape[1]), X.T @ lift)
        ends = self._gain_of(self._odds(asked[:, 1]) + self._features(asked) @ weights).tolist()
        return {name: (self._before[name][0], end) for name, end in zip(names, ends, strict=True)}

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
        """Second-order terms of the log share of the cost and the log odds."""
        m, r = np.log(scores[:, 0] / self.reference.cost), self._odds(scores[:, 1])
        return np.column_stack([np.ones_like(m), m, r, m * m, m * r, r * r])

    def _gains(self, points: Mapping[str, Point], rivals: Mapping[str, Point]) -> Array:
        """Hypervolume that each of `rivals` adds to `points`, or would be lost without it."""
        index = {name: i for i, name in enumerate(points)}
        values = np.array(list(points.values()), dtype=np.float64)
        volume = front.hypervolume(values, self.reference)
        gains = []
        for name, rival in rivals.items():
            if name in index:
                less = np.delete(values, index[name], axis=0)
                gains.append(volume - front.hypervolume(less, self.reference))
            else:
                more = np.vstack([values, rival])
                gains.append(front.hypervolume(more, self.reference) - volume)
        return np.array(gains)


def _log_odds(share: ArrayLike) -> Array:
    bounded = np.clip(share, 1e-3, 1 - 1e-3)
    return np.log(bounded / (1 - bounded))
