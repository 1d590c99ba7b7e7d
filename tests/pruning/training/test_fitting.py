"""Trainings on any batches: equal to a plain loop, by every optimiser, with every option."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import Samples, prune
from pruning.data.images import ImageSet
from pruning.errors import UserError
from pruning.training import Recipe, finetune, fit
from pruning.training.recipe import learning_rate


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    first = nn.Conv2d(1, 8, 3, bias=False)  # a bias before batch norm has only noise to follow
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 1))


def drawn(seed: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(48, 1, 8, 8, generator=generator)
    return [{"x": part, "y": part.mean((1, 2, 3))} for part in x.split(8)]


def error(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(model(batch["x"]).squeeze(1), batch["y"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip", [0.0, 0.01])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_equals_a_plain_loop(optimizer: str, clip: float, accumulate: int) -> None:
    recipe = Recipe(epochs=2, lr=0.01, optimizer=optimizer, clip=clip, accumulate=accumulate)
    ours, theirs = network(), network()
    results = list(fit(ours, drawn, error, recipe, seed=3))
    kinds: dict[str, Any] = {
        "sgd": lambda p: torch.optim.SGD(p, 0.01, 0.9, weight_decay=5e-4, nesterov=True),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=5e-4),
    }
    plain = kinds[optimizer](theirs.parameters())
    batches = drawn(3)
    theirs.train()
    for i in range(12):
        if i % accumulate == 0:
            plain.zero_grad()
        plain.param_groups[0]["lr"] = learning_rate(recipe, i, 12)
        (error(theirs, batches[i % 6]) / accumulate).backward()
        if i % accumulate == accumulate - 1:
            if clip:
                nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            plain.step()
    assert len(results) == 2 and results[-1].epoch == 2
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_is_handed_out_is_the_average_of_the_weights() -> None:
    """By the formula of exponential averages; training goes on from the weights themselves."""
    recipe = Recipe(epochs=3, lr=0.05, momentum=0, weight_decay=0, ema=0.5)
    ours, weights, batches = network(), [], drawn(0)
    step = network()
    optimiser = torch.optim.SGD(step.parameters(), 0.05)
    average = [p.detach().clone() for p in step.parameters()]
    step.train()
    for i in range(18):
        optimiser.param_groups[0]["lr"] = learning_rate(recipe, i, 18)
        optimiser.zero_grad()
        error(step, batches[i % 6]).backward()
        optimiser.step()
        pace = 1 - min(0.5, (2 + i) / (11 + i))
        average = [
            a + pace * (p.detach() - a) for a, p in zip(average, step.parameters(), strict=True)
        ]
        weights.append(average)
    for i, _ in enumerate(fit(ours, lambda seed: batches, error, recipe)):
        for a, b in zip(ours.parameters(), weights[6 * i + 5], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in ours.parameters())


def test_a_classifier_is_averaged_and_accumulated_too() -> None:
    x = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    data = ImageSet(x, torch.arange(32) % 2, (0.5,), (0.5,), 2)
    made = {}
    for ema in (0.0, 0.9):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), nn.Linear(4, 2))
        recipe = Recipe(epochs=2, batch=8, ema=ema, accumulate=2, optimizer="adamw", lr=0.01)
        assert len(list(finetune(net, data, recipe))) == 2
        made[ema] = net[0].weight.detach().clone()
    assert not torch.equal(made[0.0], made[0.9])


def test_batches_without_length_and_iterators_are_counted_and_walked_anew() -> None:
    asked: list[int] = []

    def stream(seed: int) -> Iterator[dict[str, Tensor]]:
        asked.append(seed)
        yield from drawn(seed)

    results = list(fit(network(), stream, error, Recipe(epochs=1.5, lr=0.01), seed=7))
    assert [r.epoch for r in results] == [1.0, 1.5]
    assert {7, 8} <= set(asked)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batches": lambda seed: []}, "no batches"),
        ({"loss": lambda model, batch: 0.5}, "loss.model, batch. gave a float"),
        ({"loss": lambda model, batch: model(batch["x"])}, "of shape"),
        ({"recipe": Recipe(distill=0.5)}, "no distill"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"batches": drawn, "loss": error, "recipe": Recipe()} | change
    with pytest.raises(UserError, match=said):
        list(fit(network(), given["batches"], given["loss"], given["recipe"]))


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        list(fit(network(), drawn, lambda m, b: error(m, b) / 0, Recipe(epochs=1)))


def test_the_teacher_is_asked_by_the_task() -> None:
    teacher, net = network(1), network()
    seen = []

    def distill(student: nn.Module, taught: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        seen.append(taught.training)
        return F.mse_loss(student(batch["x"]), taught(batch["x"]).detach())

    recipe = Recipe(epochs=1, distill=1.0, lr=0.01)
    list(fit(net, drawn, error, recipe, teacher=teacher, distill=distill))
    assert seen == [False] * 6


class Pair(nn.Module):
    """Takes two keywords and gives a dictionary: nothing that images and labels would fit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)
        self.norm, self.out = nn.BatchNorm2d(16), nn.Conv2d(16, 1, 1)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"y": self.out(self.norm(self.b(torch.relu(self.a(left - right)))))}


@pytest.mark.parametrize("method", ["gain-curve", "cap", "balanced", "prunenet", "cpmc", "peel"])
def test_every_method_prunes_by_the_tasks_own_loss(method: str) -> None:
    torch.manual_seed(0)
    net = Pair().eval()
    x = [{"left": torch.randn(4, 1, 9, 9), "right": torch.randn(4, 1, 9, 9)} for _ in range(3)]

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return (model(**batch)["y"] - 0.3).square().mean()

    before = copy.deepcopy(net.state_dict())
    found = prune(net, Samples(x, x, loss), macs=0.5, method=method, divisor=1)
    assert found.macs <= 0.5 * found.base_macs
    assert found.model(**x[0])["y"].shape == (4, 1, 5, 5)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
