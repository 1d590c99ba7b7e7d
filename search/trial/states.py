"""A trial's networks: batch norm fits whatever is scored; what training made worse is not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from pruning.data import Images
from pruning.training import EpochResult, Recipe, finetune, refresh

WHOLE, REPAIRED, TUNED = "whole", "repaired", "tuned"
Score = Callable[[nn.Module], float]


def scored_epochs(
    model: nn.Module,
    train: Images,
    recipe: Recipe,
    measured: Images,
    score: Score,
    **settings: Any,
) -> Iterator[tuple[EpochResult, float]]:
    """Fine-tune in place; after each epoch its result and the score on val.

    measured: training images that BN is measured on for every score, augmented as in training.
    settings: what else `finetune` takes.
    """
    for epoch in finetune(model, train, recipe, **settings):
        refresh(model, measured, recipe, settings.get("seed", 0))
        yield epoch, score(model)


class Repaired:
    """The network before its training, kept to fall back on; score: its own on val."""

    def __init__(self, model: nn.Module, score: float) -> None:
        self.score = score
        self.tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def better(self, model: nn.Module, tuned: float) -> tuple[str, float]:
        """Name and score of the better state, the tuned one at a tie; `model` becomes that."""
        if tuned >= self.score:
            return TUNED, tuned
        model.load_state_dict(self.tensors)
        return REPAIRED, self.score
