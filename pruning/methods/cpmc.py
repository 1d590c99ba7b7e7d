"""CPMC: one global ranking by several criteria that look at a channel's readers as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import nn

from pruning.graph import ChannelGraph
from pruning.importance import weight_counts, weight_sums
from pruning.methods.allocation import floored, global_threshold
from pruning.methods.base import Batches, Method, Problem, Scalar, State

FLOOR = 0.1  # share of every group that stays, where the target allows for it


class CPMC(Method):
    """Removes the channels of lowest I = v + a·(1 − f) + b·(1 − p) over the whole network.

    V = mean |w| over a channel's filter rows and all slices that read it; F, P = MACs and
    parameters that its removal frees from the whole network; v, f, p are V, F, P normalised by
    min–max over all channels of the network. A tenth of every group stays. A channel is a unit of
    the graph: all filters of a residual stream, all channels of one block of a grouped convolution.

    Source: arXiv 2011.03240 for the idea (weight dependency between a layer and the next, three
    criteria, global normalisation and ranking); the formulas and a = b = 1 are our formulation.
    """

    name = "cpmc"
    scalars: ClassVar[Mapping[str, Scalar]] = {
        "a": Scalar(0.0, 4.0, 1.0),
        "b": Scalar(0.0, 4.0, 1.0),
    }

    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        sums = sum(weight_sums(model, graph, axis, power=1) for axis in (0, 1))
        counts = sum(weight_counts(graph, axis) for axis in (0, 1))
        return {"magnitude": np.asarray(sums / np.maximum(counts, 1))}

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        a, b = (scalars.get(name, self.scalars[name].default) for name in ("a", "b"))
        graph, cost = problem.graph, problem.cost
        macs, params = freed(problem, cost.macs), freed(problem, cost.params)
        units = np.diff(graph.offsets)
        f, p = (np.repeat(min_max(each), units) for each in (macs, params))
        return min_max(state["magnitude"]) + a * (1 - f) + b * (1 - p)

    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        target = problem.cost.base if budget is None else budget
        scores = self.scores(state, problem, **scalars)
        return global_threshold(scores, floored(problem, FLOOR, target), target)


def freed(problem: Problem, cost: Callable[[np.ndarray], Any]) -> np.ndarray:
    """What removing one unit of each group from the whole network saves: float64 [groups]."""
    graph = problem.graph
    narrower = graph.widths - np.diag(graph.granularity)
    return cost(graph.widths) - cost(narrower).astype(np.float64)


def min_max(values: np.ndarray) -> np.ndarray:
    """Values scaled to 0..1; all 0 where they are equal."""
    if not len(values):
        return values
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(len(values))
