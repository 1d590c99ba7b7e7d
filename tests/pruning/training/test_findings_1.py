"""Finding 1.15 of the sweep: outputs, recipes, norms that are held still, frozen networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.data import ImageSet
from pruning.errors import UserError
from pruning.models import resolve
from pruning.training import Recipe, evaluate, finetune, recalibrate


class Wrapped(nn.Module):
    """A network whose outputs come as `pack` makes them."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.pack = resolve("digits"), pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.net(x))


def images(count: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 10, (0.5,), (0.25,), 10)


@pytest.mark.parametrize(
    "pack",
    [
        lambda y: {"features": y.flip(1), "logits": y},
        lambda y: {"out": y, "aux": y.flip(1)},
        lambda y: (y, y.flip(1)),
        lambda y: [y],
    ],
)
def test_finding_1_15_scores_come_in_dictionaries_and_tuples(pack: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    wrapped = Wrapped(pack)
    batches = images().batches(16)
    assert evaluate(wrapped, batches) == evaluate(wrapped.net, batches)


def test_finding_1_15_outputs_without_scores_are_refused() -> None:
    with pytest.raises(UserError, match="only classification"):
        evaluate(Wrapped(lambda y: {"loss": y.sum()}), images().batches(16))


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 2.5},
        {"batch": True},
        {"batch": "12"},
        {"augment": "foo"},
        {"epochs": "1"},
        {"lr": None},
        {"cuda_graph": 1},
        {"decay_all": "yes"},
    ],
)
def test_finding_1_15_recipes_of_other_types_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="foo" if "augment" in options else next(iter(options))):
        Recipe(**options)


@pytest.mark.parametrize("std", [(0.0,), (-1.0,), (float("nan"),)])
def test_finding_1_15_a_deviation_of_zero_is_refused(std: tuple[float]) -> None:
    with pytest.raises(UserError, match="above 0"):
        ImageSet(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), (0.5,), std, 10)


class Held(nn.Module):
    """Its first norm never trains, as the frozen norms of detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.still, self.norm = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def train(self, mode: bool = True) -> Held:
        super().train(mode)
        self.still.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.still(x)).flatten(1)


def test_finding_1_15_norms_that_training_holds_still_are_not_measured_anew() -> None:
    net = Held().train()
    recalibrate(net, images().batches(16))
    assert float(net.still.running_mean) == 0 and float(net.still.running_var) == 1
    assert float(net.norm.running_var) != 1
    assert net.training and net.norm.training and not net.still.training


def test_finding_1_15_a_frozen_network_is_refused_with_the_remedy() -> None:
    net = resolve("digits").requires_grad_(False)
    with pytest.raises(UserError, match="requires_grad_"):
        list(finetune(net, images(), Recipe(epochs=1)))
