"""Gain-curve allocation with the same order for selection; the strongest seed known to us."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import nn

from pruning.graph import ChannelGraph
from pruning.importance import GainCurves, gain_curve
from pruning.methods.base import Batches, Method, Problem, State


class GainCurve(Method):
    """Channels go where each explains most of its readers' outputs for what it costs.

    Per group CaP's greedy order on the covariances of the whole network; gains weighted by the
    squared BN scales of the readers; the largest quotient of gain and cost (MACs, parameters or ms,
    see `Cost.of`) first until the budget is spent. One measurement serves every budget, and the
    allocations are nested. Repaired with error feedback (pruning.reconstruction.error_feedback).
    Ours.
    """

    name = "gain-curve"
    faithfulness = "ours"
    own_repair: ClassVar[str] = "feedback"

    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        curves = gain_curve.gain_curves(model, graph, batches)
        return {"order": curves.order, "gain": curves.gain}

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        return GainCurves(state["order"], state["gain"]).scores(problem.graph)

    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        curves = GainCurves(state["order"], state["gain"])
        target = problem.cost.base if budget is None else budget
        return gain_curve.allocate(curves, problem, target)
