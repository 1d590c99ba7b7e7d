"""Gain-curve allocation: channels go where they explain most of what is read for their cost (ours).

CaP's greedy order gives, for every group, the share of its readers' outputs that each further
channel explains. A reader counts by what its output weighs in the stream it joins: the
sum of the squared scales of the BN after it, or its output's own variance without one. One pass
gives nested widths for every MAC target, and no accuracy is ever looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pruning.data import Samples, Workspace, few, first
from pruning.graph import ChannelGraph, Lattice, Layer, Problem
from pruning.reconstruction import (
    Item,
    Moments,
    Reader,
    Shelf,
    factorise,
    greedy_order,
    input_moments,
    norms_after,
)

TINY = 1e-300


@dataclass(frozen=True)
class GainCurves:
    """order: int64 [units], per group its units best first (numbered from 0 in the group);

    gain: float64 [units], what each adds in that order. Both laid out like the graph's flat units.
    """

    order: np.ndarray
    gain: np.ndarray

    def scores(self, graph: ChannelGraph) -> np.ndarray:
        """float64 [units]: higher the earlier a unit is chosen; sorting gives the order back."""
        scores = np.empty(graph.units)
        for start, group in zip(graph.offsets, graph.groups, strict=False):
            own = self.order[start : start + group.units]
            scores[start + own] = np.arange(group.units, 0, -1)
        return scores


def gain_curves(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[Any] | Samples
) -> GainCurves:
    """Measure every group's curve on the whole network: one pass, then greedy orders."""
    samples = Samples.of(batches)
    moments = input_moments(model, graph, samples)
    weight = reader_weights(model, graph, samples, moments)
    return greedy_curves(graph, moments, weight, samples.workspace)


def greedy_curves(
    graph: ChannelGraph,
    moments: Mapping[str, Moments],
    weight: Mapping[str, float],
    workspace: Workspace | None = None,
) -> GainCurves:
    """Every group's curve from its readers' moments; weight: what a reader's output counts."""
    workspace = workspace or Workspace()
    order = np.empty(graph.units, dtype=np.int64)
    gain = np.empty(graph.units)
    readers_of = _Readers(graph, moments, weight, workspace)
    for g, group in enumerate(graph.groups):
        workspace.step("measuring: groups ordered", g, len(graph.groups))
        part = slice(int(graph.offsets[g]), int(graph.offsets[g + 1]))
        readers = [
            readers_of.of(graph.layers[i], part)
            for i in graph.consumers[g]
            if graph.layers[i].weight in moments
        ]
        order[part], gain[part] = greedy_order(readers, group.units)
    return GainCurves(order, gain)


def allocate(
    curves: GainCurves, problem: Problem, budget: float, *, streams: bool = False
) -> np.ndarray:
    """Channels per group within a budget, int64 [groups]: best gain for its cost first.

    The cost is `problem.cost.of`: MACs, parameters or ms. Where a curve is not concave, several
    steps are taken at once if that pays. Residual streams stay whole, unless `streams` or the
    budget cannot be met otherwise.
    """
    graph, cost = problem.graph, problem.cost
    lat = problem.lattice if streams else _inner_only(problem, budget)
    widths = lat.low.copy()
    totals = [
        np.concatenate([[0.0], np.cumsum(curves.gain[a:b])])
        for a, b in zip(graph.offsets[:-1], graph.offsets[1:], strict=True)
    ]
    while True:
        now = cost.of(widths)
        rows, worth = [], []
        for g, total in enumerate(totals):
            steps = _steps(int(widths[g]), int(lat.step[g]), int(lat.high[g]))
            units = (np.array([widths[g], *steps]) // graph.granularity[g]).astype(np.int64)
            for width, gained in zip(steps, total[units[1:]] - total[units[0]], strict=True):
                row = widths.copy()
                row[g] = width
                rows.append(row)
                worth.append(gained)
        if not rows:
            return widths
        candidates = np.array(rows)
        price = cost.of(candidates) - now
        quotient = np.where(
            now + price <= budget, np.array(worth) / np.maximum(price, cost.least), -np.inf
        )
        best = int(quotient.argmax())
        if quotient[best] == -np.inf:
            return widths
        widths = candidates[best]


def reader_weights(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any] | Samples,
    moments: Mapping[str, Moments],
) -> dict[str, float]:
    """By weight name, what a reader's output weighs: Σγ² of its BN, else its output variance."""
    norms = norms_after(model, graph, few(first(Samples.of(batches).inputs)))
    found = {}
    for name, each in moments.items():
        norm = model.get_submodule(norms[name]) if name in norms else None
        scale = getattr(norm, "weight", None)
        found[name] = float(each.yy.sum() if scale is None else scale.detach().square().sum())
    return found


class _Readers:
    """Layers as the readers of one group see them, output scaled to total variance `weight`."""

    def __init__(
        self,
        graph: ChannelGraph,
        moments: Mapping[str, Moments],
        weight: Mapping[str, float],
        workspace: Workspace,
    ) -> None:
        self.graph, self.moments, self.weight = graph, moments, weight
        self.shelf = Shelf(workspace, None if workspace.memory_gb is None else 0)
        self.precision: dict[str, Item] = {}

    def of(self, layer: Layer, part: slice) -> Reader:
        """part: the group's flat units. What the layer reads besides them is taken as known."""
        name = layer.weight
        each, units = self.moments[name], self.graph.axes[name, layer.read]
        own = np.where((units >= part.start) & (units < part.stop), units - part.start, -1)
        unit = np.tile(own, each.xx.shape[-1] // len(own))  # columns: the channel runs fastest
        scale = (self.weight[name] / max(float(each.yy.sum()), TINY)) ** 0.5
        # of a grouped convolution the first block stands for all
        sigma, cross = each.xx[0], each.xy[0] * scale
        if (unit >= 0).all():
            return Reader(sigma, cross, unit)
        # Cov(a | b) is the inverse of the precision's block a; one inversion serves all groups
        if name not in self.precision:
            self.precision[name] = self.shelf.put(torch.cholesky_inverse(factorise(sigma)))
        index = torch.from_numpy(np.flatnonzero(unit >= 0)).to(sigma.device)
        rows = self.precision[name].get()[index]
        given = torch.cholesky_inverse(factorise(rows[:, index], ridge=0))
        return Reader(given, cross @ rows.mT @ given, unit[unit >= 0])


def _inner_only(problem: Problem, budget: float) -> Lattice:
    """The lattice without the groups that several layers add to, if the budget allows it."""
    graph, lat = problem.graph, problem.lattice
    writers = [sum(graph.layers[i].conv_groups == 1 for i in layers) for layers in graph.producers]
    low = np.where(np.array(writers) > 1, lat.high, lat.low)
    return lat if problem.cost.of(low) > budget else replace(lat, low=low)


def _steps(width: int, step: int, high: int) -> list[int]:
    """Allowed widths above `width`, the whole last."""
    above = list(range((width // step + 1) * step, high, step))
    return [*above, high] if width < high else []
