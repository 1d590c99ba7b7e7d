"""CPMC's ranking on a two-layer network worked out by hand, and its published point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pruning.graph.tracing import trace
from pruning.graph.widths import lattice
from pruning.methods import Problem
from pruning.methods.cpmc import CPMC
from tests.pruning import sample_models


class _Two(nn.Module):
    """1 → 2 → 2 channels by 1x1 convolutions on 2x2 images, then two classes; no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1, bias=False)
        self.second = nn.Conv2d(2, 2, 1, bias=False)
        self.fc = nn.Linear(2, 2, bias=False)
        self.first.weight.data = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1)
        self.second.weight.data = torch.tensor([[1.0, -2.0], [-3.0, 4.0]]).view(2, 2, 1, 1)
        self.fc.weight.data = torch.tensor([[1.0, 1.0], [-2.0, 2.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.fixture
def two() -> tuple[Problem, dict[str, np.ndarray]]:
    net = _Two()
    graph = trace(net, (1, 2, 2))
    return Problem(graph, lattice(graph, divisor=1)), CPMC().prepare(net, graph, [])


def test_magnitude_takes_in_the_readers(two: tuple[Problem, dict[str, np.ndarray]]) -> None:
    # (|1| + |1| + |−3|) / 3, (3 + 2 + 4) / 3; (1 + 2 + 1 + 2) / 4, (3 + 4 + 1 + 2) / 4
    np.testing.assert_allclose(two[1]["magnitude"], [5 / 3, 3, 1.5, 2.5])


@pytest.mark.parametrize(
    ("a", "b", "scores"),
    [
        # v = 1/9, 1, 0, 2/3. Removing a channel of the first group frees 4 + 8 MACs and 1 + 2
        # parameters, of the second 8 + 2 and 2 + 2: f = 1, 1, 0, 0 and p = 0, 0, 1, 1
        (0.0, 0.0, [1 / 9, 1, 0, 2 / 3]),
        (1.0, 1.0, [10 / 9, 2, 1, 5 / 3]),
        (2.0, 0.0, [1 / 9, 1, 2, 8 / 3]),
        (0.0, 3.0, [28 / 9, 4, 0, 2 / 3]),
    ],
)
def test_ranking_by_hand(
    two: tuple[Problem, dict[str, np.ndarray]], a: float, b: float, scores: list[float]
) -> None:
    np.testing.assert_allclose(CPMC().scores(two[1], two[0], a=a, b=b), scores)


@pytest.mark.parametrize(
    ("macs", "a", "widths"),
    # 28 MACs in all: the first channel to go is the second group's (10), then the first's (8)
    [(28, 1.0, [2, 2]), (18, 1.0, [2, 1]), (15, 1.0, [1, 1]), (18, 2.0, [1, 2])],
)
def test_removes_the_lowest_first(
    two: tuple[Problem, dict[str, np.ndarray]], macs: int, a: float, widths: list[int]
) -> None:
    p, state = two
    assert CPMC().allocate(state, p, macs, a=a, b=1.0 if a == 1 else 0.0).tolist() == widths


def test_a_tenth_of_every_group_stays() -> None:
    graph = sample_models.graph("vgg16_bn")
    p = Problem(graph, lattice(graph))
    state = CPMC().prepare(sample_models.model("vgg16_bn"), graph, [])
    widths = CPMC().allocate(state, p, 0.3 * p.cost.base_macs, a=4.0, b=0.0)
    assert (widths >= 0.1 * graph.widths).all()
    assert (widths < 0.2 * graph.widths).any(), "the floor was reached"


def test_vgg16_near_the_published_point(shared: Path) -> None:
    from scripts.bench.cpmc import measure

    found = measure(shared / "weights/cifar10/vgg16_bn.safetensors", grid=(0.75, 1.0, 1.2))
    assert found["macs"] == pytest.approx(106.7e6, rel=0.005)
    assert found["params"] == pytest.approx(1.04e6, rel=0.05)
