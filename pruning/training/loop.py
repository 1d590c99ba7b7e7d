"""Short training of a network in place."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from pruning.data.images import Images
from pruning.errors import UserError
from pruning.models.layout import settle
from pruning.training.evaluation import evaluate, evaluation_mode, mean_loss
from pruning.training.step import Step, benchmarking, capture, seeded

__all__ = ["EpochResult", "Recipe", "evaluate", "finetune", "learning_rate", "mean_loss"]


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with Nesterov momentum and a cosine learning rate down to zero.

    Args:
        epochs: Passes over the training images; may be a fraction (0.5 is half a pass).
        batch: Images per step; a smaller set is one batch.
        lr: Highest learning rate, reached after the warm-up.
        momentum: Nesterov momentum (0 to below 1).
        weight_decay: L2 penalty on the weights, added to the gradient.
        decay_all: Whether the penalty takes in biases and BN parameters too.
        label_smoothing: Share of the label spread over all classes (0 to below 1).
        warmup: Share of all steps in which the learning rate rises linearly (0 to 1).
        augment: Augmentation by name (see pruning.data.images); auto is the set's own.
        distill: Share of the loss that asks for the teacher's outputs (0 to 1); 0 is off.
        temperature: Softening of both outputs in that part of the loss.
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
    temperature: float = 4.0
    precision: str = "auto"
    cuda_graph: bool = True

    def __post_init__(self) -> None:
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
        _need(self.temperature > 0, "temperature", self.temperature, "above 0")
        choices = ("auto", "fp32", "bf16")
        _need(self.precision in choices, "precision", self.precision, f"one of {choices}")


@dataclass(frozen=True)
class EpochResult:
    """One pass, or the last part of one.

    epoch: passes so far (2.5 where a fraction ended it); train_loss: mean over its steps;
    lr: of its last step; seconds: of training alone; images_per_s: in that time.
    """

    epoch: float
    train_loss: float
    lr: float
    images_per_s: float
    seconds: float


def finetune(
    model: nn.Module,
    train: Images,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    teacher: nn.Module | None = None,
) -> Iterator[EpochResult]:
    """Train `model` in place, one result per epoch; the caller may stop between any two.

    Model and teacher move to `device` (default: the set's). The model ends in evaluation mode.
    Raises FloatingPointError once an epoch's loss is not finite.
    """
    if not len(train):
        raise UserError("no images to train on; check data.root and data.val")
    if recipe.distill and teacher is None:
        raise UserError(f"distill is {recipe.distill} without a teacher; pass one or set it to 0")
    train = train.to(device) if device is not None else train
    return _epochs(model, train, recipe, seed, teacher if recipe.distill else None)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate of step 0 ≤ step < steps: a linear rise, then half a cosine towards zero."""
    rise = round(recipe.warmup * steps)
    if step < rise:
        return recipe.lr * (step + 1) / rise
    return recipe.lr * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def _epochs(
    model: nn.Module, train: Images, recipe: Recipe, seed: int, teacher: nn.Module | None
) -> Iterator[EpochResult]:
    device = train.device
    batch = min(recipe.batch, len(train))
    generator = torch.Generator(device).manual_seed(seed)
    batches = train.batches(
        batch, shuffle=True, augment=recipe.augment, generator=generator, drop_last=True
    )
    per_epoch = len(batches)
    steps = max(1, round(recipe.epochs * per_epoch)) if recipe.epochs else 0
    for network in (model, teacher):
        if network is not None:
            settle(network, train.shape, device)
    with evaluation_mode(teacher) if teacher is not None else nullcontext():
        model.train()
        step = Step(model, teacher, recipe, device)
        try:
            run = capture(step, (batch, *train.shape), seed) if steps else step
            for start in range(0, steps, per_epoch):
                count = min(per_epoch, steps - start)
                began = time.perf_counter()
                model.train()
                with seeded(seed + 1_000_003 * start, device), benchmarking(device):
                    for i, (x, y) in enumerate(islice(batches, count), start):
                        step.lr.fill_(learning_rate(recipe, i, steps))
                        run(x, y)
                    loss = step.mean_loss(count)  # the epoch's only wait for the device
                seconds = time.perf_counter() - began
                epoch = (start + count) / per_epoch
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"training loss is {loss} in epoch {math.ceil(epoch)}; "
                        f"lower the learning rate (lr {recipe.lr})"
                    )
                rate = learning_rate(recipe, start + count - 1, steps)
                yield EpochResult(epoch, loss, rate, count * batch / seconds, seconds)
        finally:
            step.optimizer.zero_grad(set_to_none=True)  # a graph's gradients lie in its own memory
            model.eval()


def _need(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise UserError(f"{name} {value}: must be {wanted}")
