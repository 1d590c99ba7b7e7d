"""Tasks with one fault each, by name: for the command line and the workers that it starts."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from tests.search.tasks.sums import Sums


def fault(model: nn.Module) -> int:
    """0 of the whole network, else 1 to 3 by its width."""
    width = model.get_parameter("0.weight").shape[0]
    return 0 if width == 16 else 1 + width % 3


class LossNaN(Sums):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch) * float("nan")


class MetricNoNumber(Sums):
    def evaluate(self, model: nn.Module, split: str) -> Any:
        return {"RMSE": 0.5}


class MetricNaN(Sums):
    def evaluate(self, model: nn.Module, split: str) -> float:
        return float("nan")


class NoBatches(Sums):
    def train(self, seed: int) -> list[Any]:
        return []


class EmptyBatches(Sums):
    def train(self, seed: int) -> list[Any]:
        return [[], []]


class NoInputs(Sums):
    def inputs(self) -> list[Tensor]:
        return []


class ModelLocked(Sums):
    def model(self) -> nn.Module:
        net = super().model()
        net.lock = threading.Lock()
        return net


class EvaluateRaises(Sums):
    def evaluate(self, model: nn.Module, split: str) -> float:
        raise KeyError("boxes\nin two lines")


class SlimFaults(Sums):
    """Of slim networks one in three loses its loss, one its metric, and one its evaluation."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch) * (float("nan") if fault(model) == 1 else 1.0)

    def evaluate(self, model: nn.Module, split: str) -> Any:
        if fault(model) == 2:
            raise KeyError("boxes\nin two lines")
        return float("nan") if fault(model) == 3 else super().evaluate(model, split)


class TrainRaises(Sums):
    def train(self, seed: int) -> list[Any]:
        raise FileNotFoundError("photos")


class LossNoTensor(Sums):
    def loss(self, model: nn.Module, batch: Any) -> Any:
        return torch.zeros(3)
