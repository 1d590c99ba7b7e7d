"""The lockstep repair: nothing where nothing was cut, least squares in chains, less error else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.data import Workspace
from pruning.graph import Keep, cut, trace
from pruning.reconstruction.error_feedback import _images, repair
from pruning.reconstruction.refit import Settings
from pruning.reconstruction.shelf import Shelf
from tests.pruning import sample_models
from tests.pruning.reconstruction.samples import batches as _batches
from tests.pruning.reconstruction.samples import outputs as _outputs

NETWORKS = [
    "digits",
    "resnet20",
    "mobilenet_v2",
    "torchvision:efficientnet_b0",
]
EXACT = Settings(positions=10**6, ridge=0, shrink=0, rounds=0)


class Chain(nn.Module):
    """conv, BN, ReLU, conv with bias: one group to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.norm(self.first(x))))


class Mixed(nn.Module):
    """Concatenation, grouped convolution, two waiting layers in a sum, code that reads sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 8, 3, padding=1)
        self.right = nn.Conv2d(2, 8, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.short = nn.Conv2d(16, 8, 1, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1).relu_()
        y = F.hardtanh(self.grouped(x), 0.0, 2.0, inplace=True)
        y = F.silu(self.narrow(y) + self.short(x))
        y = F.dropout(F.adaptive_avg_pool2d(y, 1), 0.5, self.training)
        return self.head(y.view(y.size(0), y.size(1)))


class Residual(nn.Module):
    """A stream of four channels that two blocks add to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(4, 8, 3, padding=1, bias=False) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(8, 4, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer, norm in zip(self.inner, self.outer, self.norms, strict=True):
            x = x + norm(outer(F.relu(inner(x))))
        return self.head(x)


def _narrow(model: nn.Module, shape: tuple[int, ...], **widths: int) -> tuple[Any, Keep]:
    graph = trace(model, shape)
    keep = list(graph.full_keep())
    for name, width in widths.items():
        keep[graph.index[name.replace("__", ".")]] = np.arange(width)
    return graph, tuple(keep)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_was_not_cut_stays_as_it_is(name: str) -> None:
    model, graph = sample_models.model(name), sample_models.graph(name)
    slim = cut(model, graph, graph.full_keep())
    repair(slim, model, graph, graph.full_keep(), [(sample_models.images(name), torch.zeros(2))])
    for key, tensor in slim.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("feedback", [True, False])
def test_every_layer_of_any_network_is_repaired(name: str, feedback: bool) -> None:
    """The cut side that the walk computed last is what the repaired module computes itself."""
    model, graph = sample_models.model(name), sample_models.graph(name)
    keep = sample_models.random_keep(graph, 0)
    slim = cut(model, graph, keep)
    before = copy.deepcopy(model.state_dict())
    batches = [(sample_models.images(name, 8), torch.zeros(8))]
    error = (_outputs(slim, batches) - _outputs(model, batches)).square().mean()
    repair(slim, model, graph, keep, batches, feedback=feedback)
    made = _outputs(slim, batches)
    assert torch.isfinite(made).all()
    if feedback:  # eight images are matched by hundreds of weights of the last layer
        assert (made - _outputs(model, batches)).square().mean() < 0.05 * error
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_chain_becomes_the_least_squares_fit() -> None:
    torch.manual_seed(0)
    model = Chain().eval()
    graph, keep = _narrow(model, (2, 6, 6), first=3)
    batches = _batches((2, 6, 6))
    for feedback in (True, False):
        slim = cut(model, graph, keep)
        repair(slim, model, graph, keep, batches, feedback=feedback, settings=EXACT)
        x = torch.cat([x for x, _ in batches])
        with torch.no_grad():
            h = F.relu(model.norm(model.first(x)))[:, :3].double()
        columns = F.unfold(h, 3).permute(0, 2, 1).reshape(-1, 27)
        with_one = torch.cat([columns, torch.ones(len(columns), 1)], 1).double()
        target = _outputs(model, batches).permute(0, 2, 3, 1).reshape(-1, 4).double()
        fit = (with_one @ torch.linalg.lstsq(with_one, target).solution).float()
        made = _outputs(slim, batches).permute(0, 2, 3, 1).reshape(-1, 4)
        torch.testing.assert_close(made, fit, rtol=1e-3, atol=1e-4)


def test_concatenation_groups_and_sizes_are_followed() -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    graph = trace(model, (2, 8, 8))
    keep = tuple(np.arange(max(1, g.units // 2)) for g in graph.groups)
    assert len(keep) >= 3
    batches = _batches((2, 8, 8), count=10)
    slim = cut(model, graph, keep)
    before = _outputs(slim, batches) - _outputs(model, batches)
    repair(slim, model, graph, keep, batches)
    after = _outputs(slim, batches) - _outputs(model, batches)
    assert after.square().mean() < 0.3 * before.square().mean()


def test_the_next_block_undoes_what_the_one_before_got_wrong() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    graph, keep = _narrow(model, (2, 8, 8), inner__0=2)
    batches = _batches((2, 8, 8))
    errors = {}
    for feedback in (True, False):
        slim = cut(model, graph, keep)
        repair(slim, model, graph, keep, batches, feedback=feedback, settings=EXACT)
        gap = _outputs(slim, batches) - _outputs(model, batches)
        errors[feedback] = float(gap.square().mean())
    assert errors[True] < 0.7 * errors[False]


def test_errors_that_a_relu_hides_do_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Chain(), nn.ReLU()).eval()
    nn.init.constant_(model[0].second.bias, -0.3)
    graph, keep = _narrow(model, (2, 6, 6), **{"0__first": 2})
    batches = _batches((2, 6, 6))
    errors = []
    for rounds in (0, 4):
        slim = cut(model, graph, keep)
        settings = Settings(positions=10**6, shrink=0, rounds=rounds)
        repair(slim, model, graph, keep, batches, settings=settings)
        gap = _outputs(slim, batches) - _outputs(model, batches)
        errors.append(float(gap.square().mean()))
    assert errors[1] < 0.95 * errors[0]


def test_large_images_are_read_until_they_are_enough() -> None:
    """All activations are held at once: what is read is bounded by pixels, not by images."""
    read = []

    def batches(size: int) -> Any:
        for number in range(100):
            read.append(number)
            yield torch.empty(1, 3, 1, 1).expand(100, 3, size, size)

    for size, images in ((32, 10_000), (224, 300), (2048, 100)):
        read.clear()
        used = _images(batches(size), Shelf(Workspace()))
        assert sum(map(len, used)) == images
        assert len(read) <= len(used) + 1, "no more is decoded than is needed"
