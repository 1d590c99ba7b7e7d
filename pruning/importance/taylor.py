"""How much the loss depends on single units (Taylor ranks) and on whole groups (loss curves)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.data import Batch, Samples, some
from pruning.graph import ChannelGraph, masked
from pruning.importance.magnitude import per_unit
from pruning.training import Substituted, loss_mode, mean_loss, mean_task_loss, scalar

HUGE = 1e6  # stands for a loss that is not finite: interpolation needs numbers


def taylor_ranks(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[Any] | Samples
) -> np.ndarray:
    """Σ over batches of the normalised rank of ‖∂L/∂W_i ⊙ W_i‖₁, float64 [units]; low is dull.

    Ranks are taken per batch and layer among the units of one group. Where several layers
    l_0 … l_m write a group, S = Σ_j max(1, j)/max(1, m) · S_{l_j}, in execution order: deeper
    blocks weigh more. Evaluation mode; the model is left as it was.

    Source: the released code of Balanced (arXiv 2010.06821): its scores and shortcut groups.
    """
    writers = _writers(graph)
    state = dict(model.named_parameters())
    names = list(dict.fromkeys(name for members in writers for name in members))
    weights = {name: state[name].detach().requires_grad_() for name in names}
    written = {layer.weight: layer.written for layer in graph.layers}
    ranks = np.zeros(graph.units)
    samples = Samples.of(batches)
    with loss_mode(model, samples), torch.enable_grad():
        for batch in samples.batches:
            loss = scalar(samples.loss(Substituted(model, weights), batch))
            gradients = torch.autograd.grad(loss, [*weights.values()], allow_unused=True)
            scores = {
                name: per_unit(
                    graph, name, written[name], _filter_sums(weights[name], gradient, written[name])
                )
                for name, gradient in zip(names, gradients, strict=True)
            }
            for g, members in enumerate(writers):
                own = slice(graph.offsets[g], graph.offsets[g + 1])
                deepest = max(len(members) - 1, 1)
                for j, name in enumerate(members):
                    ranks[own] += max(1, j) / deepest * _normalised_rank(scores[name][own])
    return ranks


@dataclass(frozen=True)
class LossCurves:
    """Loss variation L − L0 of every group alone, against how many of its units are gone.

    group, removed (units): int64 [points], sorted by both, 0 removed first; variation: float64
    [points]; loss: L0, the mean loss of the whole network.
    """

    group: np.ndarray
    removed: np.ndarray
    variation: np.ndarray
    loss: float

    def at(self, group: int, removed: float) -> float:
        """L − L0 with that many units of a group gone, linear between the points."""
        first, last = np.searchsorted(self.group, [group, group + 1])
        own = slice(first, last)
        return float(np.interp(removed, self.removed[own], self.variation[own]))

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "curve_group": self.group,
            "curve_removed": self.removed,
            "curve_variation": self.variation,
            "loss": np.array(self.loss),
        }

    @classmethod
    def from_arrays(cls, state: dict[str, np.ndarray]) -> LossCurves:
        return cls(
            state["curve_group"],
            state["curve_removed"],
            state["curve_variation"],
            float(state["loss"]),
        )


def loss_curves(
    model: nn.Module,
    graph: ChannelGraph,
    scores: np.ndarray,
    batches: Iterable[Any] | Samples,
    points: int,
) -> LossCurves:
    """Loss with the lowest units of one group at a time removed, at `points` counts a group.

    scores: float64 [units], the lowest go first. The counts are even over the group, the last
    leaves one unit: with 8 points the widths of the automatic divisor up to 64 channels. Costs
    `points` passes over the batches a group. The model is left as it was.
    """
    net = copy.deepcopy(model)
    samples = Samples.of(batches)
    base = _loss(net, samples)
    groups, counts, variations = [], [], []
    for g, group in enumerate(graph.groups):
        start = int(graph.offsets[g])
        order = np.argsort(scores[start : start + group.units], kind="stable")
        even = np.rint(np.linspace(0, group.units, points + 1)).astype(np.int64)
        for count in np.unique(np.minimum(even, group.units - 1)).tolist():
            variation = 0.0
            if count:
                with masked(net, graph, start + order[:count]):
                    variation = _loss(net, samples) - base
            groups.append(g)
            counts.append(count)
            variations.append(variation if math.isfinite(variation) else HUGE)
    return LossCurves(
        np.array(groups, dtype=np.int64),
        np.array(counts, dtype=np.int64),
        np.array(variations, dtype=np.float64),
        base,
    )


def first_images(batches: Iterable[Any] | Samples, images: int, size: int | None = None) -> Samples:
    """The first `images` images, in the batches they come in or anew in batches of `size`.

    Batches of another task than classification stay whole.
    """
    samples = Samples.of(batches)
    if not samples.classifier:
        return some(samples, images)
    taken: list[Batch] = []
    left = images
    for x, y in samples.batches:
        taken.append((x[:left], y[:left]))
        left -= len(taken[-1][1])
        if left <= 0:
            break
    if size is None or not taken:
        return samples.with_batches(taken)
    xs, ys = (torch.cat([batch[i] for batch in taken]).split(size) for i in (0, 1))
    return samples.with_batches(list(zip(xs, ys, strict=True)))


def _loss(model: nn.Module, samples: Samples) -> float:
    if samples.classifier:
        return mean_loss(model, samples.batches)
    return mean_task_loss(model, samples)


def _writers(graph: ChannelGraph) -> list[list[str]]:
    """Per group the weights that write it, in execution order, shared ones once."""
    return [
        list(dict.fromkeys(graph.layers[i].weight for i in layers)) for layers in graph.producers
    ]


def _filter_sums(weight: Tensor, gradient: Tensor | None, axis: int) -> np.ndarray:
    """‖∂L/∂W_i ⊙ W_i‖₁ per filter, float64 [filters]; zero where no output depends on it.

    axis: of the weight, along which the filters lie.
    """
    if gradient is None:
        return np.zeros(weight.shape[axis])
    products = (gradient * weight.detach()).abs().movedim(axis, 0)
    products = products.flatten(1).sum(1, dtype=torch.float64)
    return np.nan_to_num(products.cpu().numpy())


def _normalised_rank(scores: np.ndarray) -> np.ndarray:
    """Rank 1/n … 1 of each score, the earlier unit lower at a tie."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1) / len(scores)
    return ranks
