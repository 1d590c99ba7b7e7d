"""MO-ASHA: at each rung, trials go on that are among the best of their part of the range of costs.

A rung is a number of epochs. All that reached a rung are put in order by non-dominated sort on
(cost, score), the least crowded first within a rank, and a trial goes on if it is among the first
1/factor of those with about its cost, or the best of its part of the range. So the cheap end is
never starved, and no part of the range stays empty. Scores before any gradient step are judged
otherwise: `screening`.

Schmucker et al., Multi-objective asynchronous successive halving (2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from search.pareto import MACS, TOP1, CostAxis, Metric, Strata, front
from search.storage import Row

FACTOR = 3.0  # one trial of so many goes on


def rungs(epochs: float, factor: float = FACTOR) -> tuple[int, ...]:
    """`epochs` / factor, / factor², … in whole epochs, ascending, all before the end."""
    levels = []
    level = epochs / factor
    while factor > 1 and round(level) >= 1:
        if round(level) < epochs:
            levels.append(round(level))
        level /= factor
    return tuple(sorted(set(levels)))


class Halving:
    """What each trial scored at each rung, and whether it goes on."""

    def __init__(
        self,
        steps: Iterable[int],
        strata: Strata,
        factor: float = FACTOR,
        cover: Strata | None = None,
        metric: Metric = TOP1,
        word: str = MACS.word,
    ) -> None:
        """strata: of what is compared; cover: of what no part may stay empty; word: the cost's."""
        self.steps, self.strata, self.factor = tuple(steps), strata, factor
        self.cover, self.metric, self.word = cover or strata, metric, word
        self._scores: list[dict[str, tuple[float, float]]] = [{} for _ in self.steps]

    def learn(self, rows: Iterable[Row], axis: CostAxis) -> None:
        """Fill the rungs from an earlier session's rows."""
        for row in rows:
            if row.score_repaired is None or (row.status != "stopped" and not row.epochs):
                continue
            share = axis.share(row)
            for step, scores in zip(self.steps, self._scores, strict=True):
                seen = (row.score_repaired, *row.curve)
                if step < len(seen):
                    scores[row.trial_id] = share, self.metric.gain(seen[step])

    def judge(self, trial: str, epochs: float, share: float, score: float) -> str | None:
        """Record a report; None where the trial goes on, else the reason why it does not.

        share: the cost as a share of the base's. A rung is decided once for each trial, so one that
        began anew (after running out of memory, say) is not judged twice.
        """
        reached = [i for i, step in enumerate(self.steps) if epochs >= step]
        if not reached or not math.isfinite(score):
            return None
        scores = self._scores[reached[-1]]
        if trial in scores:
            return None
        scores[trial] = share, self.metric.gain(score)
        place, peers = _place(scores, trial, self.strata)
        if place < math.ceil(peers / self.factor) or _place(scores, trial, self.cover)[0] == 0:
            return None
        return (
            f"rank {place + 1} of {peers} near {share:.0%} of the {self.word} after {epochs:g} "
            f"epochs; one of {self.factor:g} goes on"
        )


def _place(
    scores: Mapping[str, tuple[float, float]], trial: str, strata: Strata
) -> tuple[int, int]:
    """Place of a trial, 0 the best, among those of its stratum, and how many these are."""
    names = list(scores)
    points = np.array(list(scores.values()))
    bins = strata.index(points[:, 0])
    mine = names.index(trial)
    order = [i for i in front.order(points) if bins[i] == bins[mine]]
    return order.index(mine), len(order)
