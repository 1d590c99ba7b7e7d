"""The frontier of scores and costs: non-dominated points, ranks, spread, hypervolume, knee.

Points are float [N, 2] with columns (cost, gain). The cost (MACs, parameters, ms: `CostAxis`) is
minimised, the gain maximised: the score, or its negative where less of a metric is better
(`Metric.gain`).
Rows with a non-finite value never count: they poison every routine that meets them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.pareto.axis import MACS, CostAxis
from search.pareto.metric import TOP1, Metric

_MAXIMISE = [False, True]
Points = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """The hypervolume's reference point, fixed in the run record.

    `cost` is one of `axis`; `gain` is that of knowing nothing, `best` that of perfection: scores of
    `metric`, turned so that larger is better.
    """

    cost: float
    gain: float
    best: float = 1.0
    metric: Metric = TOP1
    axis: CostAxis = MACS

    @classmethod
    def of(cls, axis: CostAxis, metric: Metric, base: float) -> Reference:
        """What costs as much as the base model and knows nothing.

        base: the base model's score on val. Where nobody knows what knowing nothing scores, as
        much below the base's as that is above 0; where a metric has no end, the base's is best.
        """
        own = metric.gain(base)
        gain = own - (abs(own) or 1.0) if metric.chance is None else metric.gain(metric.chance)
        best = own if metric.best is None else metric.gain(metric.best)
        return cls(axis.base, gain, best if best > gain else gain + 1.0, metric, axis)

    def share(self, gain: ArrayLike) -> Points:
        """Gains as shares of the way from knowing nothing to perfection."""
        return (np.asarray(gain, dtype=np.float64) - self.gain) / (self.best - self.gain)

    def points(self, rows: Iterable[Any]) -> Points:
        """`points_of` rows in its metric and on its axis."""
        return points_of(rows, self.metric, self.axis)


def reference_point(base_macs: int, classes: int, *, macs: float = 1.0) -> Reference:
    """What has the base model's MACs (`macs`: that share of them) and guesses (1/classes)."""
    return Reference(base_macs * macs, 1.0 / classes, axis=CostAxis("macs", base_macs))


def points_of(rows: Iterable[Any], metric: Metric = TOP1, axis: CostAxis = MACS) -> Points:
    """float [N, 2] of ledger rows' (cost, gain on val), complete or not; NaN if unmeasured."""
    pairs = [
        (axis.of(row), np.nan if row.score_val is None else metric.gain(row.score_val))
        for row in rows
    ]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def front(points: ArrayLike, feasible: ArrayLike | None = None) -> Indices:
    """Indices int64 [K] of the non-dominated points, by cost ascending; first of duplicates.

    `feasible`: bool [N]; rows that are not, and non-finite ones, are out before the sort.
    """
    values, index = _valid(points, feasible)
    kept = np.flatnonzero(moocore.is_nondominated(values, maximise=_MAXIMISE))
    return index[kept[np.argsort(values[kept, 0], kind="stable")]]


def hypervolume(
    points: ArrayLike, reference: Reference, feasible: ArrayLike | None = None
) -> float:
    """Share in [0, 1] of the box (no cost, perfection) to the reference point that is dominated.

    Costs are absolute. Points beyond the reference point count for nothing.
    """
    values, _ = _valid(points, feasible)
    cost = values[:, 0] / reference.cost
    gain = reference.share(values[:, 1])
    inside = (cost < 1.0) & (gain > 0.0)
    if not inside.any():
        return 0.0
    scaled = np.column_stack([cost[inside], gain[inside]])
    return float(moocore.hypervolume(scaled, ref=[1.0, 0.0], maximise=_MAXIMISE))


def ranks(points: ArrayLike, feasible: ArrayLike | None = None) -> Indices:
    """Non-dominated sort, int64 [N]: 0 for the front; excluded rows share the last rank, N."""
    values, index = _valid(points, feasible)
    total = len(np.asarray(points).reshape(-1, 2))
    result = np.full(total, total, dtype=np.int64)
    if len(index):
        result[index] = moocore.pareto_rank(values, maximise=_MAXIMISE)
    return result


def crowding(points: ArrayLike, rank: ArrayLike) -> NDArray[np.float64]:
    """Crowding distance [N] within each rank; inf at both ends, 0 for excluded rows.

    Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II (2002).
    """
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    levels = np.asarray(rank)
    distance = np.zeros(len(values))
    for level in np.unique(levels[levels < len(values)]):
        members = np.flatnonzero(levels == level)
        for column in range(2):
            order = members[np.argsort(values[members, column], kind="stable")]
            sorted_values = values[order, column]
            span = sorted_values[-1] - sorted_values[0]
            distance[order[[0, -1]]] = np.inf
            if span > 0:
                distance[order[1:-1]] += (sorted_values[2:] - sorted_values[:-2]) / span
    return distance


def order(points: ArrayLike, feasible: ArrayLike | None = None) -> Indices:
    """All indices, best first: by rank, the least crowded first within a rank."""
    rank = ranks(points, feasible)
    return np.lexsort((-crowding(points, rank), rank))


def subset(points: ArrayLike, count: int, reference: Reference) -> Indices:
    """Indices int64 [count] of the points of a front that leave the most hypervolume, by cost.

    points: a front [N, 2] by cost ascending. Exact, by dynamic programming over the steps of the
    staircase: O(count · N²). Auger et al., Theory of the hypervolume indicator (2009).
    """
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    total = len(values)
    if count >= total:
        return np.arange(total)
    cost = np.minimum(values[:, 0] / reference.cost, 1.0)
    gain = np.maximum(values[:, 1] - reference.gain, 0.0)
    best = gain * (1.0 - cost)  # of one point and all that lies right of it
    choice = np.zeros((count, total), dtype=np.int64)
    step = cost[None, :] - cost[:, None]
    for k in range(1, count):
        area = gain[:, None] * step + best[None, :]
        area[np.tril_indices(total)] = -np.inf
        choice[k] = area.argmax(1)
        best = area.max(1)
    chosen = [int(best.argmax())]
    for k in range(count - 1, 0, -1):
        chosen.append(int(choice[k, chosen[-1]]))
    return np.array(chosen)


def knee(points: ArrayLike, feasible: ArrayLike | None = None) -> int | None:
    """Index of the front's point farthest above the line between its ends; None without one."""
    index = front(points, feasible)
    if len(index) < 3:
        return None
    values = np.asarray(points, dtype=np.float64)[index]
    scaled = (values - values[0]) / (values[-1] - values[0])
    height = scaled[:, 1] - scaled[:, 0]
    best = int(np.argmax(height))
    return int(index[best]) if height[best] > 0 else None


def _valid(points: ArrayLike, feasible: ArrayLike | None) -> tuple[Points, Indices]:
    """Finite, feasible rows [K, 2] and their indices int64 [K]."""
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    valid = np.isfinite(values).all(axis=1)
    if feasible is not None:
        valid &= np.asarray(feasible, dtype=bool)
    index = np.flatnonzero(valid)
    return np.ascontiguousarray(values[index]), index
