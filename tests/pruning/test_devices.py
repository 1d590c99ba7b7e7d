"""On a GPU every tensor is on the GPU: checked on fake ones, which know devices and no values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pruning import methods, oneshot
from pruning.data.images import Batches, ImageSet
from pruning.graph.widths import fit, lattice, uniform
from pruning.methods import Problem
from pruning.models.registry import resolve
from pruning.oneshot import REPAIRS
from pruning.training.batch_norm import recalibrate
from pruning.training.evaluation import evaluate
from tests.pruning.fake_gpu import GPU, fake_gpu, to
from tests.pruning.sample_models import SHAPES, graph, images, model

BACKWARD = {"balanced", "prunenet"}  # measure gradients, which fake tensors have none of


def on_gpu(name: str) -> tuple[nn.Module, Batches]:
    """A network and its images, fake ones."""
    shape, labels = (8, *SHAPES[name]), torch.zeros(8, dtype=torch.int64, device=GPU)
    pixels = torch.zeros(shape, dtype=torch.uint8, device=GPU)
    some = ImageSet(pixels, labels, (0.5,) * shape[1], (0.2,) * shape[1], 10)
    return to(resolve(name), GPU).eval(), some.batches(4, augment="crop-flip", shuffle=True)


def devices(net: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in (*net.parameters(), *net.buffers())}


@pytest.mark.parametrize("name", ["digits", "mobilenet_v2"])
def test_scoring_and_recalibration(name: str) -> None:
    with fake_gpu():
        net, batches = on_gpu(name)
        evaluate(net, batches)
        recalibrate(net, batches)
        assert devices(net) == {GPU}


@pytest.mark.parametrize("method", sorted({*methods.names()} - BACKWARD))
def test_statistics(method: str) -> None:
    own = graph("digits")
    with fake_gpu():
        net, batches = on_gpu("digits")
        state = methods.get(method).prepare(net, own, batches)
    assert all(array.shape for array in state.values())


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("method", methods.names())
def test_cut_and_repair(method: str, repair: str) -> None:
    chosen, own = methods.get(method), graph("digits")
    labels = torch.arange(4)
    state = chosen.prepare(model("digits"), own, [(images("digits", 4), labels)])
    problem = Problem(own, lattice(own, None, 0.1))
    target = 0.5 * problem.cost.base_macs
    widths = fit(problem.cost, lambda t: uniform(own, problem.lattice, t), target)
    with fake_gpu():
        net, batches = on_gpu("digits")
        slim = oneshot.slim(net, problem, chosen, state, widths, batches, repair=repair)
        assert devices(slim.model) == {GPU}


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: torch.zeros(2, device=GPU) + torch.zeros(2),
        lambda: torch.zeros(2, device=GPU).index_select(0, torch.tensor([0])),
        lambda: torch.zeros(2, device=GPU).numpy(),
    ],
)
def test_these_tests_can_fail(mixed: Callable[[], Any]) -> None:
    with fake_gpu(), pytest.raises((RuntimeError, AssertionError)):
        mixed()
