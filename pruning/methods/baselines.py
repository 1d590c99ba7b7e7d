"""Baselines: channels ranked by the L2 norm of their filters, spread uniformly or globally."""

from __future__ import annotations

import numpy as np
from torch import nn

from pruning.graph import ChannelGraph, fit, uniform
from pruning.importance import weight_sums
from pruning.methods.allocation import global_threshold, spend
from pruning.methods.base import Batches, Method, Problem, State


class Uniform(Method):
    """The same share of every group; inside a group the largest filters stay (L2 norm).

    Source: the common baseline (Li et al., arXiv 1608.08710, with L2 in place of L1).
    """

    name = "uniform"
    faithfulness = "baseline"

    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        return {"norm": np.sqrt(weight_sums(model, graph, axis=0, power=2))}

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        return state["norm"]

    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        graph, cost, lat = problem.graph, problem.cost, problem.lattice
        target = cost.base if budget is None else budget
        widths = fit(cost, lambda t: uniform(graph, lat, t), target)
        # a single ratio moves many groups at once: spend the rest where the share is lowest
        share = graph.widths / np.maximum(widths, 1)
        return spend(problem, widths, target, lambda _: share)


class GlobalL2(Uniform):
    """One threshold over all groups on filter norms, each normalised by its group's mean.

    Source: the global variant of the same baseline, as in DepGraph's group-norm pruner
    (arXiv 2301.12900) restricted to producers.
    """

    name = "l2-global"

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        starts = problem.graph.offsets[:-1]
        sizes = np.diff(problem.graph.offsets)
        if not len(sizes):
            return state["norm"]
        means = np.add.reduceat(state["norm"], starts) / sizes
        return state["norm"] / np.repeat(np.maximum(means, 1e-12), sizes)

    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        target = problem.cost.base if budget is None else budget
        return global_threshold(self.scores(state, problem), problem, target)
