"""Accuracy and loss of a network, which is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import UserError


def evaluate(model: nn.Module, batches: Iterable[Any]) -> float:
    """Top-1 accuracy as a fraction, in evaluation mode; the model is left as it was."""
    return _mean(model, batches, lambda logits, y: (logits.argmax(1) == y).sum())


def mean_loss(model: nn.Module, batches: Iterable[Any]) -> float:
    """Mean cross-entropy over all images, in evaluation mode; the model is left as it was."""
    return _mean(model, batches, lambda logits, y: F.cross_entropy(logits, y, reduction="sum"))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """`model.eval()` for a while; each module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _mean(
    model: nn.Module, batches: Iterable[Any], statistic: Callable[[Tensor, Tensor], Tensor]
) -> float:
    total: Tensor | None = None
    count = 0
    with evaluation_mode(model), torch.inference_mode():
        for x, y in batches:
            value = statistic(model(x).float(), y).double()
            total = value if total is None else total + value
            count += len(y)
    if total is None:
        raise UserError("no images to score; check data.root and data.val")
    return float(total.item()) / count
