"""Accuracy and loss of a network, which is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import UserError
from pruning.graph import tensors_in


def evaluate(model: nn.Module, batches: Iterable[Any]) -> float:
    """Top-1 accuracy as a fraction, in evaluation mode; the model is left as it was."""
    return _mean(model, batches, lambda logits, y: (logits.argmax(1) == y).sum())


def mean_loss(model: nn.Module, batches: Iterable[Any]) -> float:
    """Mean cross-entropy over all images, in evaluation mode; the model is left as it was."""
    return _mean(model, batches, lambda logits, y: F.cross_entropy(logits, y, reduction="sum"))


def logits_of(output: Any) -> Tensor:
    """The scores [B, classes] in what a network returns: the tensor, or the first in its parts.

    A dictionary's `logits` or `out` come before others. UserError where there are none.
    """
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("logits", "out") if key in output), output)
    found = next((t for t in tensors_in(output) if t.ndim == 2), None)
    if found is None:
        raise UserError(
            f"the network returned a {type(output).__name__} without scores [images, classes]; "
            "only classification is scored here"
        )
    return found


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
            value = statistic(logits_of(model(x)).float(), y).double()
            total = value if total is None else total + value
            count += len(y)
    if total is None:
        raise UserError("no images to score; check data.root and data.val")
    return float(total.item()) / count
