"""CaP: pruning with compensation (arXiv 2108.13728)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from pruning.data import Samples, few, first
from pruning.graph import ChannelGraph, cut
from pruning.importance import GainCurves, first_images, greedy_curves
from pruning.methods.allocation import spend
from pruning.methods.base import Batches, Method, Problem, Scalar, State
from pruning.reconstruction import Moments, compensate_layers, input_moments, norms_after
from pruning.training import evaluate, mean_task_loss

TINY = 1e-12


@dataclass(frozen=True)
class CaP(Method):
    """Greedy order by what channels explain; structural search by accuracy; least squares repair.

    Order: forward greedy, gain_t = tr(R_t C_t⁻¹ R_tᵀ), the exact drop of the residual of the
    readers' outputs; a group with several readers ranks by the sum of gains (ours). Structural
    search: layers from input to output, the accuracy threshold falls by drop/#groups per group,
    each takes the fewest channels that keep it. Compensation: W' = W Σ_{:,s} Σ_ss⁻¹,
    b' = b + Wμ − W'μ_s. Order and compensation follow the released code. Ours: accuracies of
    compensated networks are measured once per group, the others whole, and drops are added up, so
    that a proposal costs a look-up; a MAC target moves `drop`; the ridge.
    """

    name = "cap"
    faithfulness = "follows the released code (parts marked ours excepted)"
    scalars: ClassVar[Mapping[str, Scalar]] = {"drop": Scalar(0.003, 3.0, 0.1, log=True)}
    needs_target = False
    own_repair: ClassVar[str] = "compensate"

    images: int = 512
    points: int = 6

    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        moments = input_moments(model, graph, batches)
        plain = {name: float(each.yy.sum()) for name, each in moments.items()}
        curves = greedy_curves(graph, moments, plain)
        scored = first_images(batches, self.images)
        drops = accuracy_drops(model, graph, moments, curves, scored, self.points)
        return {"order": curves.order, "gain": curves.gain, "drops": drops}

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        return GainCurves(state["order"], state["gain"]).scores(problem.graph)

    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        """Widths of `drop`; with a target the largest within it, whatever is given."""
        if budget is None:
            return structural(
                state["drops"], problem, scalars.get("drop", self.scalars["drop"].default)
            )
        low, high = 0.0, float(len(problem.graph.groups))  # a whole accuracy for every group
        for _ in range(40):
            middle = (low + high) / 2
            if problem.cost.of(structural(state["drops"], problem, middle)) > budget:
                low = middle
            else:
                high = middle
        widths = structural(state["drops"], problem, high)
        if problem.cost.of(widths) > budget:
            widths = problem.lattice.low
        return spend(problem, widths, budget, lambda w: _next_gains(state, problem, w))


def accuracy_drops(
    model: nn.Module,
    graph: ChannelGraph,
    moments: Mapping[str, Moments],
    curves: GainCurves,
    scored: Samples,
    points: int,
) -> np.ndarray:
    """Accuracy lost by each group alone, compensated: float64 [groups, points + 1].

    Of a task that is no classification: 1 - exp(-rise), the loss's rise as a share of the loss.

    Column j: j/points of the group's units removed (at least one stays); never decreasing.
    """
    norms = norms_after(model, graph, few(first(scored.inputs)))
    base = _measure(model, scored)
    drops = np.zeros((len(graph.groups), points + 1))
    for g, group in enumerate(graph.groups):
        order = curves.order[graph.offsets[g] : graph.offsets[g + 1]]
        for j in range(1, points + 1):
            kept = max(1, round(group.units * (1 - j / points)))
            slim = compensated(model, graph, moments, norms, g, np.sort(order[:kept]))
            drops[g, j] = _drop(base, _measure(slim, scored), scored)
    return np.maximum.accumulate(drops, axis=1)


def _measure(model: nn.Module, scored: Samples) -> float:
    if scored.classifier:
        return evaluate(model, scored.batches)
    return mean_task_loss(model, scored)


def _drop(base: float, cut: float, scored: Samples) -> float:
    if scored.classifier:
        return base - cut
    rise = (cut - base) / max(abs(base), TINY)
    return 1 - math.exp(-max(rise, 0.0)) if math.isfinite(rise) else 1.0


@torch.no_grad()
def compensated(
    model: nn.Module,
    graph: ChannelGraph,
    moments: Mapping[str, Moments],
    norms: Mapping[str, str],
    group: int,
    units: np.ndarray,
) -> nn.Module:
    """The network with one group cut to `units` and its readers compensated."""
    full = graph.full_keep()
    keep = (*full[:group], units, *full[group + 1 :])
    slim = cut(model, graph, keep)
    names = {graph.layers[i].weight for i in graph.consumers[group]}
    read = {name: each for name, each in moments.items() if name in names}
    compensate_layers(slim, model, graph, keep, read, norms)
    return slim


def structural(drops: np.ndarray, problem: Problem, drop: float) -> np.ndarray:
    """Fewest channels per group, input to output, while the summed drops keep to the threshold."""
    lat, graph = problem.lattice, problem.graph
    widths, spent = lat.high.copy(), 0.0
    shares = np.linspace(0.0, 1.0, drops.shape[1])
    for g, channels in enumerate(graph.widths):
        allowed = np.arange(lat.low[g], lat.high[g] + 1, lat.step[g])
        allowed = np.unique(np.append(allowed, lat.high[g]))
        lost = np.interp(1 - allowed / channels, shares, drops[g])
        budget = drop * (g + 1) / len(graph.groups) - spent
        fits = np.flatnonzero(lost <= budget)
        choice = int(fits[0]) if len(fits) else len(allowed) - 1
        widths[g] = allowed[choice]
        spent += float(lost[choice])
    return widths


def _next_gains(state: State, problem: Problem, widths: np.ndarray) -> np.ndarray:
    """What the next unit of each group would explain, float64 [groups]."""
    graph = problem.graph
    index = graph.offsets[:-1] + np.minimum(widths // graph.granularity, np.diff(graph.offsets) - 1)
    return state["gain"][index]
