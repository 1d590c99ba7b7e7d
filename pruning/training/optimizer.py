"""The update of a training step: optimiser by name, gradient clipping, averaged weights."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pruning.training.recipe import Recipe


class Update:
    """Turns gradients into new weights. `lr` is a tensor, so that a replay sees its changes."""

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.lr = torch.tensor(recipe.lr, device=device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, recipe, self.lr)
        self.average = [p.detach().clone() for p in self.parameters] if recipe.ema else []
        self.pace = torch.ones((), device=device)  # share of the weights that enters the average
        self.steps = 0

    def set(self, lr: float) -> None:
        """Before a step: its learning rate. The average follows fast at first, as in timm."""
        self.lr.fill_(lr)
        if self.average:
            self.steps += 1
            self.pace.fill_(1 - min(self.recipe.ema, (1 + self.steps) / (10 + self.steps)))

    def __call__(self) -> None:
        """One step by the gradients that the parameters have."""
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        if self.average:
            with torch.no_grad():
                change = torch._foreach_sub([p.detach() for p in self.parameters], self.average)
                torch._foreach_mul_(change, self.pace)
                torch._foreach_add_(self.average, change)

    @torch.no_grad()
    def swap(self) -> None:
        """Put the averaged weights in the network, and its own in their place."""
        for own, mean in zip(self.parameters, self.average, strict=False):
            kept = own.detach().clone()
            own.copy_(mean)
            mean.copy_(kept)

    def clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def forget(self) -> None:
        """As new: what optimiser and average have seen is zeroed in place."""
        self.clear()
        with torch.no_grad():
            for held in self.optimizer.state.values():
                for value in held.values():
                    if isinstance(value, Tensor):
                        value.zero_()
            for mean, own in zip(self.average, self.parameters, strict=False):
                mean.copy_(own)


def _optimizer(
    parameters: list[nn.Parameter], recipe: Recipe, lr: Tensor
) -> torch.optim.SGD | torch.optim.AdamW:
    groups = [
        {"params": group, "weight_decay": decay} for group, decay in _decayed(parameters, recipe)
    ]
    fused = lr.device.type in ("cpu", "cuda")
    if recipe.optimizer == "adamw":
        capturable = lr.device.type == "cuda"
        return torch.optim.AdamW(groups, lr=lr, fused=fused, capturable=capturable)
    momentum = recipe.momentum
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)


def _decayed(parameters: list[nn.Parameter], recipe: Recipe) -> list[tuple[list[Tensor], float]]:
    """Parameters and their weight decay; biases and BN parameters are those of one dimension."""
    if recipe.decay_all:
        return [(list(parameters), recipe.weight_decay)]
    groups: list[tuple[list[Tensor], float]] = [
        ([p for p in parameters if p.ndim > 1], recipe.weight_decay),
        ([p for p in parameters if p.ndim <= 1], 0.0),
    ]
    return [group for group in groups if group[0]]


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return list(chain(model.parameters(), model.buffers()))
