"""The lockstep repair of modules that are called twice, and of sequences and volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.graph import cut, trace
from pruning.reconstruction.error_feedback import repair
from pruning.reconstruction.refit import Settings


class Siamese(nn.Module):
    """One body called on two inputs that differ much in scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.second = nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        both = []
        for part in (x, 0.2 * x.flip(1) + 0.5):
            both.append(self.second(F.relu(self.norm(self.first(part)))).mean((2, 3)))
        return self.head(torch.cat(both, 1))


def _normalised(model: Any, shape: tuple[int, ...]) -> Any:
    """With BN statistics of its own, as a trained network has them."""
    model.train()
    with torch.no_grad():
        for _ in range(40):
            model(torch.randn(16, *shape))
    return model.eval()


def _halves(graph: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.arange(max(1, group.units // 2)) for group in graph.groups)


def _error(slim: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        target = model(x)
        return float((slim(x) - target).square().mean() / target.var())


def test_finding_1_11_a_module_called_twice_is_refitted_for_both_calls() -> None:
    torch.manual_seed(0)
    shape = (3, 12, 12)
    model = _normalised(Siamese(), shape)
    graph = trace(model, shape)
    keep = _halves(graph)
    batches = [(torch.randn(20, *shape), torch.zeros(20)) for _ in range(5)]
    x = torch.randn(100, *shape)
    plain, slim = cut(model, graph, keep), cut(model, graph, keep)
    repair(slim, model, graph, keep, batches)
    assert _error(slim, model, x) < 0.15 * _error(plain, model, x)


def _net(conv: Any, norm: Any) -> nn.Module:
    layers = [conv(2, 12, 3, padding=1, bias=False), norm(12), nn.ReLU(), conv(12, 8, 3)]
    layers += [norm(8), nn.ReLU(), conv(8, 5, 1)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("conv", "norm", "shape"),
    [(nn.Conv1d, nn.BatchNorm1d, (2, 40)), (nn.Conv3d, nn.BatchNorm3d, (2, 6, 7, 5))],
)
def test_finding_1_13_convolutions_of_one_and_three_dimensions_are_least_squares(
    conv: Any, norm: Any, shape: tuple[int, ...]
) -> None:
    """Of the last layer's inputs on the cut network: no other weights do better."""
    torch.manual_seed(0)
    model = _normalised(_net(conv, norm), shape)
    graph = trace(model, shape)
    keep = _halves(graph)
    batches = [(torch.randn(16, *shape), torch.zeros(16)) for _ in range(4)]
    plain, slim = cut(model, graph, keep), cut(model, graph, keep)
    repair(slim, model, graph, keep, batches, settings=Settings(10**6, 10**6, 0, 0))
    x = torch.cat([x for x, _ in batches])
    assert _error(slim, model, x) < 0.7 * _error(plain, model, x)
    with torch.no_grad():
        inside: Any = slim
        read = inside[:6](x).movedim(1, -1).flatten(0, -2).double()
        target = model(x).movedim(1, -1).flatten(0, -2).double()
        best = torch.linalg.lstsq(F.pad(read, (0, 1), value=1.0), target).solution
        made = slim(x).movedim(1, -1).flatten(0, -2)
    fitted = (F.pad(read, (0, 1), value=1.0) @ best).float()
    torch.testing.assert_close(made, fitted, rtol=1e-3, atol=1e-4)
