"""The contract of a task: forty lines of yours make anything that learns from batches a search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from search.pareto import Metric

__all__ = ["NEEDED", "Metric", "Task", "TaskError"]

NEEDED = ("metric", "model", "example", "train", "inputs", "loss", "evaluate")


class TaskError(ValueError):
    """What a task's own code did wrong, in one line: a failed row, or the end of the base model."""


@runtime_checkable
class Task(Protocol):
    """What a search needs to know. Batches take any form; their tensors are moved to the device.

    Optional: `distill(student, teacher, batch) -> Tensor`, for finetune.distill; `trained = False`
    where the base model is to be trained first, as `base` says; `training_loss = True` where the
    loss needs the network in training mode, as those of torchvision's detectors do; `mean` and
    `std`, by which inputs are normalised, for whoever deploys the models.
    """

    metric: Metric

    def model(self) -> nn.Module:
        """The trained network, anew at each call."""
        ...

    def example(self) -> Any:
        """One small batch of inputs, as the network is called, or the shape of one input.

        A tensor, a tuple of arguments, a dictionary of keywords, or a shape as (3, 224, 224).
        """
        ...

    def train(self, seed: int) -> Iterable[Any]:
        """The batches that a training walks, epoch by epoch; shuffled by the seed."""
        ...

    def inputs(self) -> Iterable[Any]:
        """Some hundred inputs in batches, as the network is called, the same at each call.

        Repair and pruning methods read them; no targets are needed.
        """
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of one batch of `train`, a tensor of one number."""
        ...

    def evaluate(self, model: nn.Module, split: str) -> float:
        """The metric on "val", which steers the search, or "test", for its result alone.

        The model comes in evaluation mode, on its device.
        """
        ...
