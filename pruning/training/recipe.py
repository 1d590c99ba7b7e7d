"""How to train: the options of a short training, checked, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

from pruning.data import augmentation
from pruning.errors import UserError

OPTIMIZERS = ("sgd", "adamw")
KINDS: dict[type, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a name"),
}
"""By the type of an option's default: what its value has to be."""


@dataclass(frozen=True)
class Recipe:
    """How to train: by SGD or AdamW, with a cosine learning rate down to zero.

    Args:
        epochs: Passes over the training images; may be a fraction (0.5 is half a pass).
        batch: Images per step; a smaller set is one batch.
        lr: Highest learning rate, reached after the warm-up.
        momentum: Nesterov momentum of SGD (0 to below 1).
        weight_decay: SGD: L2 penalty on the weights, added to the gradient; AdamW: share of the
            learning rate by which they shrink in each step.
        decay_all: Whether the penalty takes in biases and BN parameters too.
        label_smoothing: Share of the label spread over all classes (0 to below 1).
        warmup: Share of all steps in which the learning rate rises linearly (0 to 1).
        augment: Augmentation by name (see pruning.data.images); auto is the set's own.
        distill: Share of the loss that asks for the teacher's outputs (0 to 1); 0 is off.
        distill_maps: Feature maps that the teacher asks for as well: none, modules by glob patterns
            ("backbone.*,neck"), or auto, the last of each resolution; not for classification.
        temperature: Softening of both outputs in that part of the loss.
        optimizer: sgd, or adamw (which wants learning rates of about 0.001).
        clip: Longest gradient, by its norm over all weights; 0 is no limit.
        ema: Decay of a moving average of the weights, which is what is scored and kept (0.99); 0 is
            off.
        accumulate: Batches whose gradients make one step.
        precision: fp32, bf16 (autocast), or auto: bf16 where the processor computes in it.
        cuda_graph: Whether a GPU replays a captured step.
    """

    epochs: float = 1.0
    batch: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_all: bool = True
    label_smoothing: float = 0.0
    warmup: float = 0.0
    augment: str = "auto"
    distill: float = 0.0
    distill_maps: str = "none"
    temperature: float = 4.0
    optimizer: str = "sgd"
    clip: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    precision: str = "auto"
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        for each in fields(self):
            kind, words = KINDS[type(each.default)]
            value = getattr(self, each.name)
            mixed = isinstance(value, bool) and kind is not bool  # True is a number to Python
            _need(isinstance(value, kind) and not mixed, each.name, value, words)
        if self.augment != "auto":
            augmentation(self.augment)
        _need(0 <= self.epochs < math.inf, "epochs", self.epochs, "0 or more")
        _need(self.batch >= 1, "batch", self.batch, "1 or more")
        _need(0 < self.lr < math.inf, "lr", self.lr, "above 0, as in 0.05")
        _need(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        _need(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "0 or more")
        _need(
            0 <= self.label_smoothing < 1,
            "label_smoothing",
            self.label_smoothing,
            "from 0 to below 1",
        )
        _need(0 <= self.warmup <= 1, "warmup", self.warmup, "from 0 to 1")
        _need(0 <= self.distill <= 1, "distill", self.distill, "from 0 to 1")
        asked = self.distill_maps == "none" or self.distill > 0
        _need(asked, "distill_maps", self.distill_maps, "none where distill is 0; set distill")
        _need(self.temperature > 0, "temperature", self.temperature, "above 0")
        _need(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, f"one of {OPTIMIZERS}")
        _need(0 <= self.clip < math.inf, "clip", self.clip, "0 (no limit) or more")
        _need(0 <= self.ema < 1, "ema", self.ema, "from 0 (off) to below 1, as in 0.99")
        _need(self.accumulate >= 1, "accumulate", self.accumulate, "1 or more")
        choices = ("auto", "fp32", "bf16")
        _need(self.precision in choices, "precision", self.precision, f"one of {choices}")


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate of step 0 ≤ step < steps: a linear rise, then half a cosine towards zero."""
    rise = round(recipe.warmup * steps)
    if step < rise:
        return recipe.lr * (step + 1) / rise
    return recipe.lr * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def _need(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise UserError(f"{name} {value}: must be {wanted}")
