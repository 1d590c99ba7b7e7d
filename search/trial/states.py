"""A trial's networks: batch norm fits whatever is scored; what training made worse is not kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pruning.training import EpochResult, Recipe
from search.pareto import TOP1, Metric
from search.storage import REPAIRED, TUNED
from search.tasks import Workload


def scored_epochs(
    model: nn.Module, work: Workload, recipe: Recipe, seed: int, **settings: Any
) -> Iterator[tuple[EpochResult, float]]:
    """Fine-tune in place; after each epoch its result and the score on val.

    BN is measured for every score on inputs as the training sees them. settings: what else
    `Workload.epochs` takes.
    """
    for epoch in work.epochs(model, recipe, seed=seed, **settings):
        work.refresh(model, recipe, seed)
        yield epoch, work.score(model)


class Repaired:
    """The network before its training, kept to fall back on; score: its own on val."""

    def __init__(self, model: nn.Module, score: float, metric: Metric = TOP1) -> None:
        self.score, self.metric = score, metric
        self.tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def better(self, model: nn.Module, tuned: float) -> tuple[str, float]:
        """Name and score of the better state, the tuned one at a tie; `model` becomes that."""
        if self.metric.better(tuned, self.score):
            return TUNED, tuned
        model.load_state_dict(self.tensors)
        return REPAIRED, self.score
