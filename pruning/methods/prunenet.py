"""PruneNet: gates on all channels, learnt under a price for the MACs that each would free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from pruning.data import few, first
from pruning.graph import ChannelGraph, Cost, Keep
from pruning.importance import (
    GatedNetwork,
    balanced_gamma,
    channel_moments,
    filtered_variance,
    first_images,
    learn_gates,
)
from pruning.methods.allocation import global_threshold
from pruning.methods.base import Batches, Method, Problem, Scalar, State
from pruning.reconstruction import POSITIONS, fold_means, norms_after

TIE = 1e-6  # weight of the variance among gates that are equal, as closed ones are


@dataclass(frozen=True)
class PruneNet(Method):
    """One global threshold on learnt gates α, one per unit, all weights and BN frozen.

    Minimises CE + γ·Σ_g β_g‖α_g‖₁ over α ≥ 0 from 1 by Adam; β_g = MACs that one channel frees,
    over the largest of the groups; γ by short bisections so that about half of the gates fall
    below 0.5; the threshold by bisection to the MAC target. A gate scales what its channel gives
    to its readers (see pruning.importance.gates), which for ReLU networks is a gate after the BN.

    Inside a group the largest (1 − variance)·α + variance·I stay, with the scalar `variance` from
    0 (gates) to 1, and I = Σ_consumers Σ_o w_{o,c}ᵀ Cov(patch_c) w_{o,c} over its largest in the
    group; I also decides between closed gates. The repair folds W·E[x] of the removed channels
    into the bias of their readers (or the BN mean behind them).

    `steps` batches of `batch` images are learnt from, half as many in each bisection, cycling
    through the first `images` given; on a GPU 500–1500 of 256 are affordable. `statistics`,
    `positions`: images, and places in each, for covariances and means.

    Source: arXiv 2005.11282 for the idea (pretrained net, light data-driven optimisation, global
    importance, variance after filtering); all formulas are our formulation. One round.
    """

    name = "prunenet"
    scalars: ClassVar[Mapping[str, Scalar]] = {"variance": Scalar(0.0, 1.0, 0.0)}
    scalars_select = True
    inherits: ClassVar[bool] = False  # its repair has the whole network's means
    version = 3

    steps: int = 80
    batch: int = 128
    images: int = 2048
    statistics: int = 256
    positions: int = POSITIONS
    bisections: int = 3

    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        seen = first_images(batches, self.images, self.batch)
        # a gate is a unit's, which may be several channels
        gradient = Cost(graph).macs_gradient(graph.widths) * graph.granularity
        prices = np.repeat(gradient / max(gradient.max(initial=0.0), 1.0), np.diff(graph.offsets))
        network = GatedNetwork(model, graph)
        short = max(1, self.steps // 2)  # a quarter ranks gates at random (ResNet-20, 80 steps)
        gamma = balanced_gamma(network, seen, prices, rounds=self.bisections, steps=short)
        gates = learn_gates(network, seen, prices, gamma, self.steps)
        moments = channel_moments(model, graph, first_images(seen, self.statistics), self.positions)
        norms = norms_after(model, graph, few(first(seen.inputs)))
        modules = [name for name, _ in model.named_modules()]  # a state holds numbers only
        return {
            "gate": gates,
            "variance": filtered_variance(model, graph, moments),
            "gamma": np.array(gamma),
            **{f"mean.{name}": moment.mean_x.cpu().numpy() for name, moment in moments.items()},
            **{f"norm.{name}": np.array(modules.index(norm)) for name, norm in norms.items()},
        }

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        share = scalars.get("variance", self.scalars["variance"].default)
        variance = _over_largest(state["variance"], problem.graph)
        return (1 - share) * state["gate"] + (share + TIE) * variance

    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        target = problem.cost.base if budget is None else budget
        return global_threshold(self.scores(state, problem, variance=0.0), problem, target)

    def repair(
        self, slim: nn.Module, whole: nn.Module, graph: ChannelGraph, state: State, keep: Keep
    ) -> None:
        modules = [name for name, _ in whole.named_modules()]
        means = {k.removeprefix("mean."): v for k, v in state.items() if k.startswith("mean.")}
        norms = {
            k.removeprefix("norm."): modules[v] for k, v in state.items() if k.startswith("norm.")
        }
        fold_means(slim, whole, graph, keep, means, norms)


def _over_largest(values: np.ndarray, graph: ChannelGraph) -> np.ndarray:
    """Values over the largest of their group, float64 [units]."""
    out = values.astype(np.float64)
    for start, end in zip(graph.offsets[:-1], graph.offsets[1:], strict=True):
        out[start:end] /= max(out[start:end].max(), 1e-300)
    return out
