"""The contract of a pruning method: allocate, select, repair, over the same channel groups."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import nn

from pruning.data import Batches
from pruning.graph import ChannelGraph, Keep, Problem

__all__ = [
    "Batches",
    "Method",
    "Problem",
    "Scalar",
    "State",
    "floored",
    "global_threshold",
    "spend",
]

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

    `scalars` are searchable; with `needs_target` the allocation also takes a MAC target, otherwise
    the scalars alone decide, and `allocate` meets a target by moving the first of them.
    """

    name: ClassVar[str]
    faithfulness: ClassVar[str] = "our formulation of the published idea"
    version: ClassVar[int] = 1  # raise it when `prepare` measures differently: states are cached
    scalars: ClassVar[Mapping[str, Scalar]] = {}
    needs_target: ClassVar[bool] = True
    scalars_select: ClassVar[bool] = False  # whether they order the units of a group, too
    own_repair: ClassVar[str] = "none"  # what `repair: auto` means: none, compensate or feedback

    @abstractmethod
    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        """Measure what the decisions need, once per base model; the model is left as it was."""

    @abstractmethod
    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        """Importance of every unit, float64 [units]; the highest of a group stay."""

    @abstractmethod
    def allocate(
        self, state: State, problem: Problem, macs: float | None = None, **scalars: float
    ) -> np.ndarray:
        """Channels per group for at most `macs` MACs, int64 [groups], on the lattice."""

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


def floored(problem: Problem, share: float, macs: float) -> Problem:
    """The same problem with at least `share` of every group kept, where `macs` allow for that."""
    lat = problem.lattice
    least = np.ceil(share * lat.high / lat.step).astype(np.int64) * lat.step
    low = np.maximum(lat.low, np.minimum(least, lat.high))
    if problem.cost.macs(low) > macs:
        return problem
    return Problem(problem.graph, replace(lat, low=low))


def global_threshold(scores: np.ndarray, problem: Problem, macs: float) -> np.ndarray:
    """Widths of one threshold on `scores` (float [units]) over all groups, at most `macs` MACs.

    What the lattice leaves over is filled with the next best channels.
    """
    order = np.argsort(-scores, kind="stable")
    group_of = np.searchsorted(problem.graph.offsets, order, "right") - 1
    granularity = problem.graph.granularity

    def widths(count: int) -> np.ndarray:
        kept = np.bincount(group_of[:count], minlength=len(granularity)) * granularity
        steps = kept // problem.lattice.step * problem.lattice.step
        whole = np.where(kept >= problem.lattice.high, problem.lattice.high, steps)
        return np.maximum(whole, problem.lattice.low)

    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        if problem.cost.macs(widths(middle)) <= macs:
            low = middle
        else:
            high = middle - 1
    offsets = problem.graph.offsets
    ranked = [np.sort(scores[a:b])[::-1] for a, b in itertools.pairwise(offsets)]

    def following(w: np.ndarray) -> np.ndarray:
        """Score of the first unit that each group leaves out."""
        first = w // granularity
        return np.array([own[min(k, len(own) - 1)] for own, k in zip(ranked, first, strict=True)])

    return spend(problem, widths(low), macs, following)


def spend(
    problem: Problem,
    widths: np.ndarray,
    macs: float,
    value: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Single steps until none fits below `macs`, the best value per MAC at each width first.

    value(widths): what a further channel of each group is worth there, float64 [groups].
    """
    cost, lat = problem.cost, problem.lattice
    widths = widths.copy()
    while True:
        up = lat.up(widths)
        price = cost.macs(np.where(np.eye(len(widths), dtype=bool), up, widths)) - cost.macs(widths)
        fits = (up > widths) & (cost.macs(widths) + price <= macs)
        if not fits.any():
            return widths
        worth = value(widths) * (up - widths) / np.maximum(price, 1)
        best = int(np.where(fits, worth, -np.inf).argmax())
        widths[best] = up[best]
