"""Who is trained to the end: a subset of the frontier, by scores without their noise.

The frontier of single trainings is the best of many noisy values. Smoothed scores cost nothing,
and a network that was unlucky is on their frontier all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pruning.graph import ChannelGraph, Cost
from search.pareto import TOP1, Metric, Reference, front
from search.storage import Row
from search.study.ehvi.surrogate import Inputs, Networks, Surrogate
from search.study.width_space import offset_groups

FEWEST = 12  # trials, before their scores are smoothed
MOST = 512  # trials that are smoothed, the best by rank
Array = NDArray[np.float64]


def smoothed(
    rows: Sequence[Row], graph: ChannelGraph, cost: Cost, metric: Metric = TOP1
) -> tuple[Array, Array]:
    """Gains [N] of complete trials, and their standard deviations [N].

    As measured, with deviations of 0, where trials are too few to learn from.
    """
    measured = front.points_of(rows, metric)[:, 1]
    if len(rows) < FEWEST:
        return measured, np.zeros(len(rows))
    W = np.array([row.widths for row in rows], dtype=np.int64)
    methods = tuple(row.method for row in rows)
    stages = list(offset_groups(graph, "auto").values())
    inputs = Inputs(cost, graph.widths, stages, tuple(dict.fromkeys(methods)))
    return Surrogate(inputs, Networks(W, methods, measured)).predict(Networks.untried(W, methods))


def finalists(
    rows: Sequence[Row], count: int, graph: ChannelGraph, cost: Cost, reference: Reference
) -> list[Row]:
    """At most `count` complete trials, by cost; 0 takes the whole frontier as it was measured.

    Those of the frontier of smoothed scores that leave the most hypervolume; where it has
    fewer, those next to it have a second chance.
    """
    if not count:
        return [rows[i] for i in front.front(reference.points(rows))]
    best = front.order(reference.points(rows))[:MOST]
    rows = [rows[i] for i in np.sort(best)]
    mean, std = smoothed(rows, graph, cost, reference.metric)
    costs = reference.points(rows)[:, 0]
    points = np.column_stack([costs, mean])
    on = front.front(points)
    if len(on) > count:
        on = on[front.subset(points[on], count, reference)]
    elif len(on):
        level = mean[on][np.searchsorted(costs[on], costs, side="right") - 1]
        behind = (level - mean) / np.maximum(std, 1e-12)  # in its own deviations
        near = np.setdiff1d(np.flatnonzero(behind < 1), on)
        near = near[np.argsort(behind[near], kind="stable")][: count - len(on)]
        on = np.append(on, near)
    return sorted((rows[i] for i in on), key=lambda row: (reference.axis.of(row), row.trial_id))
