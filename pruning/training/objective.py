"""The loss of any network on any batch: the mode that it needs, and other weights for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from pruning.data import Samples
from pruning.errors import UserError
from pruning.training.evaluation import evaluation_mode

RANDOM = ("StochasticDepth", "DropPath", "DropBlock2d")  # of torchvision and timm


@contextmanager
def loss_mode(model: nn.Module, samples: Samples) -> Iterator[None]:
    """The mode in which the samples' loss is measured; each module gets its own back.

    Evaluation mode; where the loss is one of training mode, that, without what makes it random or
    changes the network: batch norm, dropout and the like.
    """
    with evaluation_mode(model):
        if samples.training:
            for module in model.modules():
                module.training = not still(module)
        yield


def still(module: nn.Module) -> bool:
    """Whether a module is random in training mode, or changes its buffers there."""
    return isinstance(module, _NormBase | _DropoutNd) or type(module).__name__ in RANDOM


class Substituted(nn.Module):
    """A network called with other tensors in place of its own, which stay as they are.

    What goes through them is differentiated. Losses have to call it; its parts are not replaced.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._held = (model, dict(tensors))  # in a tuple: no submodule, no parameters
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        model, tensors = self._held
        return functional_call(model, tensors, args, kwargs)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return self._held[0].parameters(recurse)

    def __getattr__(self, name: str) -> Any:
        if name == "_held":
            raise AttributeError(name)
        return getattr(self._held[0], name)


def scalar(loss: object) -> Tensor:
    """A loss that can be differentiated; UserError where it is none."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        shape = f" of shape {list(loss.shape)}" if isinstance(loss, Tensor) else ""
        raise UserError(
            f"loss(model, batch) gave a {type(loss).__name__}{shape}; return the mean loss of the "
            "batch, a tensor of one number"
        )
    return loss.reshape(())


def mean_task_loss(model: nn.Module, samples: Samples) -> float:
    """Mean of the batches' losses in the samples' mode, each batch counting alike."""
    losses = []
    with loss_mode(model, samples), torch.no_grad():
        for batch in samples.batches:
            losses.append(float(scalar(samples.loss(model, batch))))
    if not losses:
        raise UserError("no batches to measure the loss on; hand in at least one")
    return sum(losses) / len(losses)
