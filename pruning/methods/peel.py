"""PEEL: over-prune to a backbone, then reallocate the spare resources to informative groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from pruning.graph import ChannelGraph, fit, uniform
from pruning.importance import bn_scales
from pruning.methods.allocation import floored, global_threshold, spend
from pruning.methods.base import Batches, Method, Problem, Scalar, State

FLOOR = 0.1  # the threshold's backbone keeps this share of every group


@dataclass(frozen=True)
class Peel(Method):
    """One round of reallocation from less to more informative groups, at a MAC target T.

    1. Backbone b with MACs(b) = rho·T: one threshold on Σ|γ| over all groups, at least a tenth of
       each (`backbone="uniform"`: the same share of each).
    2. s_g = mean Σ|γ| over the kept channels of g, normalised to mean 1 over the groups.
    3. n_g(k) = min(c_g, round(b_g·(1 + k·s_g))), the largest k ≥ 0 with MACs(n) ≤ T; so groups
       that are full pass their share on. Then single steps by s_g per MAC until none fits.
    4. Per group the largest Σ|γ| stay. Weights are inherited.

    γ are BN scales, summed over the BNs that a channel passes; groups without BN fall back to
    filter norms (see pruning.importance.bn_scale). The base model is taken as it is: whoever wants
    the scales spread by an L1 penalty trains it so beforehand.

    Source: arXiv 2103.01847 for the idea (over-pruned predefined backbone, one round that spends
    the pool); all formulas are our formulation.
    """

    name = "peel"
    scalars: ClassVar[Mapping[str, Scalar]] = {"rho": Scalar(0.5, 1.0, 0.8)}

    backbone: str = "threshold"

    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        return {"scale": bn_scales(model, graph)}

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        return state["scale"]

    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        target = problem.cost.base if budget is None else budget
        rho = scalars.get("rho", self.scalars["rho"].default)
        base = self._backbone(state["scale"], problem, rho * target)
        importance = kept_means(state["scale"], problem, base)
        widths = grow(problem, base, importance, target)
        return spend(problem, widths, target, lambda _: importance)

    def _backbone(self, scale: np.ndarray, problem: Problem, budget: float) -> np.ndarray:
        if self.backbone == "threshold":
            return global_threshold(scale, floored(problem, FLOOR, budget), budget)
        graph, lat = problem.graph, problem.lattice
        return fit(problem.cost, lambda share: uniform(graph, lat, share), budget)


def kept_means(scale: np.ndarray, problem: Problem, widths: np.ndarray) -> np.ndarray:
    """Mean scale of the channels that stay at `widths`, normalised to mean 1: float64 [groups]."""
    graph = problem.graph
    means = np.empty(len(graph.groups))
    for g, units in enumerate(widths // graph.granularity):
        own = np.sort(scale[graph.offsets[g] : graph.offsets[g + 1]])
        means[g] = own[len(own) - units :].mean()
    total = means.mean() if len(means) else 0.0
    return means / total if total > 0 else np.ones(len(means))


def grow(problem: Problem, base: np.ndarray, importance: np.ndarray, budget: float) -> np.ndarray:
    """Widths round(b·(1 + k·s)) with the largest k ≥ 0 within the budget, int64 [groups]."""
    lat = problem.lattice
    growing = importance > 0
    room = (lat.high / base - 1)[growing] / importance[growing]
    most = float(room.max(initial=0.0))
    return fit(
        problem.cost,
        lambda t: np.maximum(lat.snap(base * (1 + t * most * importance)), base),
        budget,
    )
