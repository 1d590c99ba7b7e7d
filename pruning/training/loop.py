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

from pruning.data import Images
from pruning.errors import UserError
from pruning.models import settle
from pruning.training.evaluation import evaluation_mode
from pruning.training.recipe import Recipe, learning_rate
from pruning.training.step import Step, benchmarking, capture, seeded


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
    data_seed: int | None = None,
) -> Iterator[EpochResult]:
    """Train `model` in place, one result per epoch; the caller may stop between any two.

    data_seed: of the images' order and augmentation, where it should not be `seed`.
    Model and teacher move to `device` (default: the set's). The model ends in evaluation mode.
    Raises FloatingPointError once an epoch's loss is not finite.
    """
    if recipe.epochs and not any(p.requires_grad for p in model.parameters()):
        raise UserError("all parameters are frozen; requires_grad_(True) on what is to be trained")
    if not len(train):
        raise UserError("no images to train on; check data.root and data.val")
    if recipe.distill and teacher is None:
        raise UserError(f"distill is {recipe.distill} without a teacher; pass one or set it to 0")
    if recipe.distill_maps != "none":
        raise UserError("distill_maps is not for classification; set it to none")
    train = train.to(device) if device is not None else train
    order = seed if data_seed is None else data_seed
    return _epochs(model, train, recipe, seed, order, teacher if recipe.distill else None)


def _epochs(
    model: nn.Module,
    train: Images,
    recipe: Recipe,
    seed: int,
    order: int,
    teacher: nn.Module | None,
) -> Iterator[EpochResult]:
    device = train.device
    batch = min(recipe.batch, len(train))
    generator = torch.Generator(device).manual_seed(order)
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
                        step.update.set(learning_rate(recipe, i, steps))
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
                step.update.swap()  # the caller may stop here: what it gets is the average
                yield EpochResult(epoch, loss, rate, count * batch / seconds, seconds)
                if start + count < steps:
                    step.update.swap()
        finally:
            step.update.clear()  # a graph's gradients lie in its own memory
            model.eval()
