"""Short training of any network on any batches by any loss, in place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pruning.data import Loss, images_in, moved
from pruning.errors import UserError
from pruning.training.evaluation import evaluation_mode
from pruning.training.loop import EpochResult
from pruning.training.objective import scalar
from pruning.training.optimizer import Update
from pruning.training.recipe import Recipe, learning_rate
from pruning.training.step import seeded, wants_bf16

Distill = Callable[[nn.Module, nn.Module, Any], Tensor]
"""distill(student, teacher, batch) → loss: how far the student is from the teacher."""
Source = Callable[[int], Iterable[Any]]
"""batches(seed): what a training walks, epoch by epoch; anew for each where it is an iterator."""


def fit(
    model: nn.Module,
    batches: Source,
    loss: Loss,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    teacher: nn.Module | None = None,
    distill: Distill | None = None,
) -> Iterator[EpochResult]:
    """Train `model` on its device in place, one result per epoch; stop between any two.

    Batches of any form: tensors in nested tuples, lists and dictionaries are moved to the device.
    Their size and augmentation are their maker's: the recipe's `batch`, `augment` and
    `label_smoothing` are for `finetune`. precision auto is fp32, but bf16 on a GPU. The model ends
    in evaluation mode. FloatingPointError once an epoch's loss is not finite; UserError without
    batches, or for a loss that is no number.
    """
    if recipe.distill and (teacher is None or distill is None):
        raise UserError(
            f"distill {recipe.distill}: this task has no distill(student, teacher, batch); give it "
            "one, or set distill to 0"
        )
    if not recipe.distill:
        teacher = None
    return _epochs(model, batches, loss, recipe, seed, torch.device(device), teacher, distill)


def _epochs(
    model: nn.Module,
    batches: Source,
    loss: Loss,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    teacher: nn.Module | None,
    distill: Distill | None,
) -> Iterator[EpochResult]:
    source = batches(seed)
    once = iter(source) is source
    per_epoch = _count(source, batches, seed)
    steps = max(1, round(recipe.epochs * per_epoch)) if recipe.epochs else 0
    model.to(device)
    auto = "auto" if device.type == "cuda" else "fp32"
    bf16 = wants_bf16(auto if recipe.precision == "auto" else recipe.precision, device)
    update, many = Update(model, recipe, device), recipe.accumulate
    total = torch.zeros((), device=device)

    def value(batch: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            own = scalar(loss(model, batch)).float()
            if teacher is None or distill is None:
                return own
            taught = scalar(distill(model, teacher, batch)).float()
        return (1 - recipe.distill) * own + recipe.distill * taught

    with evaluation_mode(teacher.to(device)) if teacher is not None else nullcontext():
        try:
            for start in range(0, steps, per_epoch):
                count = min(per_epoch, steps - start)
                began, images = time.perf_counter(), 0
                if once or start == 0:
                    source = batches(seed + start // per_epoch)
                model.train()
                done = start
                with seeded(seed + 1_000_003 * start, device):
                    for batch in islice(source, count):
                        if done % many == 0:
                            update.clear()
                        update.set(learning_rate(recipe, done, steps))
                        now = value(moved(batch, device))
                        (now / many if many > 1 else now).backward()  # type: ignore[no-untyped-call]
                        done, images = done + 1, images + images_in(batch)
                        if done % many == 0 or done == steps:
                            update()
                        total += now.detach()
                if done == start:
                    raise UserError("train gave no batches; it must give the same number each time")
                mean = total.item() / (done - start)
                total.zero_()
                seconds = time.perf_counter() - began
                epoch = (start + count) / per_epoch
                if not math.isfinite(mean):
                    raise FloatingPointError(
                        f"training loss is {mean} in epoch {math.ceil(epoch)}; "
                        f"lower the learning rate (lr {recipe.lr})"
                    )
                update.swap()  # the caller may stop here: what it gets is the average
                model.eval()
                rate = learning_rate(recipe, start + count - 1, steps)
                yield EpochResult(epoch, mean, rate, images / seconds, seconds)
                if start + count < steps:
                    update.swap()
        finally:
            update.clear()
            model.eval()


def _count(source: Iterable[Any], batches: Source, seed: int) -> int:
    """Batches of an epoch: as many as they say, else they are walked once. UserError for none."""
    try:
        count = len(source)  # type: ignore[arg-type]
    except TypeError:
        count = sum(1 for _ in (batches(seed) if iter(source) is source else source))
    if not count:
        raise UserError("train gave no batches; give at least one")
    return count
