"""The contract of a pruning method: allocate, select, repair, over the same channel groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from pruning.data import Samples
from pruning.graph import ChannelGraph, Keep, Problem

__all__ = ["Batches", "Method", "Problem", "Scalar", "State"]

Batches = Iterable[Any] | Samples
"""(images, labels) of a classifier, or samples with the loss of any task; walked again."""

State = dict[str, np.ndarray]
"""What a method measures once per base model: named arrays, nothing else."""


@dataclass(frozen=True)
class Scalar:
    """One of a method's own numbers that a search may drive."""

    low: float
    high: float
    default: float
    log: bool = False


class Method(ABC):
    """Template of the methods; a new one states `name`, `prepare`, `scores` and `allocate`.

    `scalars` are searchable; with `needs_target` the allocation also takes a budget, otherwise
    the scalars alone decide, and `allocate` meets a target by moving the first of them.
    """

    name: ClassVar[str]
    faithfulness: ClassVar[str] = "our formulation of the published idea"
    version: ClassVar[int] = 1  # raise it when `prepare` measures differently: states are cached
    scalars: ClassVar[Mapping[str, Scalar]] = {}
    needs_target: ClassVar[bool] = True
    scalars_select: ClassVar[bool] = False  # whether they order the units of a group, too
    own_repair: ClassVar[str] = "none"  # what `repair: auto` means: none, compensate or feedback
    inherits: ClassVar[bool] = True  # whether what it measured serves to cut its networks further

    @abstractmethod
    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        """Measure what the decisions need, once per base model; the model is left as it was."""

    @abstractmethod
    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        """Importance of every unit, float64 [units]; the highest of a group stay."""

    @abstractmethod
    def allocate(
        self, state: State, problem: Problem, budget: float | None = None, **scalars: float
    ) -> np.ndarray:
        """Channels per group, int64 [groups] on the lattice, that cost at most `budget`.

        In the unit of `problem.cost.of`: MACs, parameters or ms. None: what the whole costs.
        """

    def repair(  # noqa: B027  a hook, not a duty
        self, slim: nn.Module, whole: nn.Module, graph: ChannelGraph, state: State, keep: Keep
    ) -> None:
        """Change what stays of the cut network, in place, to make up for what went; no-op here.

        `slim` is `cut(whole, graph, keep)`; `whole` is only read.
        """

    def select(self, state: State, problem: Problem, widths: np.ndarray, **scalars: float) -> Keep:
        """Which units stay: per group the highest scores, the earlier unit at a tie."""
        scores = self.scores(state, problem, **scalars)
        graph = problem.graph
        keep = []
        for g, units in enumerate(widths // np.maximum(graph.granularity, 1)):
            own = scores[graph.offsets[g] : graph.offsets[g + 1]]
            keep.append(np.sort(np.argsort(-own, kind="stable")[:units]))
        return tuple(keep)
