"""A small network, a recipe, and the losses of its training."""

from __future__ import annotations

import torch
from torch import nn

from pruning.data.images import ImageSet
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe

EXACT = Recipe(epochs=2, batch=32, lr=0.05, augment="none", precision="fp32")


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Dropout(0.1), nn.Flatten(), nn.Linear(72, 2),
    )  # fmt: skip


def losses(model: nn.Module, data: ImageSet, recipe: Recipe, **more: object) -> list[float]:
    return [r.train_loss for r in finetune(model, data, recipe, **more)]  # type: ignore[arg-type]
