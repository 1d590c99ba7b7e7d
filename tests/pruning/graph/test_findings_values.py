"""Findings 1.3 to 1.8, 1.11, 1.13 and 1.14 of the sweep, a test for each number."""

from __future__ import annotations

import os
import runpy
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruning
from pruning.data import passes
from pruning.errors import UserError
from pruning.graph import Cost, cut, masked, trace
from pruning.graph.tracing.verification import irregular
from tests.pruning.graph.hard_networks import Net, conv, pooled, rolled, root_parameters, usual


def written(net: Net, x: Tensor) -> Tensor:
    """A map [B, 1, H, W] is spread over all channels of what it is written into."""
    out = x.new_zeros(len(x), 8, 12, 12)
    out[:] = net.c(net.a(x))
    return pooled(net, net.b(out))


WRONG: dict[str, Callable[[], nn.Module]] = {
    "roll over channels": lambda: usual(rolled),
    "channel shuffle": lambda: usual(
        lambda n, x: pooled(n, n.b(n.s(n.a(x)))), s=nn.ChannelShuffle(2)
    ),
    "pooling over channels": lambda: Net(
        lambda n, x: n.fc(F.avg_pool1d(n.a(x).mean((2, 3)), 3, 1, 1)),
        a=conv(3, 8),
        fc=nn.Linear(8, 5),
    ),
    "written with broadcast": lambda: usual(written, c=conv(8, 1)),
    "divided by its width": lambda: usual(
        lambda n, x: pooled(n, n.b((y := n.a(x)) / y.shape[1])),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_finding_1_3_cut_is_masked(name: str) -> None:
    """Each of these was up to 26 % off, and no error said so."""
    torch.manual_seed(0)
    net = WRONG[name]().double().eval()
    graph = trace(net, (3, 12, 12))
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    for seed in (1, 2):
        keep = irregular(graph, seed)
        gone = np.flatnonzero(~graph.kept_units(keep)[:-1])
        slim = cut(net, graph, keep)(x)
        with masked(net, graph, gone):
            torch.testing.assert_close(slim, net(x), rtol=1e-9, atol=1e-9)


@dataclass
class Scores:
    logits: Tensor


class Opaque:
    """Holds a tensor where nobody looks."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


Named = namedtuple("Named", "scores")
OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "dataclass": Scores,
    "namespace": lambda y: SimpleNamespace(out=y),
    "named tuple": Named,
    "nested": lambda y: {"a": [(y,)]},
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_finding_1_5_the_classifier_stays_whatever_it_comes_in(name: str) -> None:
    graph = trace(usual(lambda n, x: OUTPUTS[name](pooled(n, n.b(n.a(x))))), (3, 12, 12))
    assert graph.fixed == {"fc": "output of the network"}
    assert set(graph.index) == {"a", "b"}


def generated(net: Net, x: Tensor) -> Iterator[Tensor]:
    return (part for part in [pooled(net, net.b(net.a(x)))])


@pytest.mark.parametrize("run", [generated, lambda n, x: Opaque(n.a(x)), lambda n, x: None])
def test_finding_1_5_an_output_without_tensors_is_an_error(run: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="no tensor was found; return tensors"):
        trace(usual(run), (3, 12, 12))


def test_finding_1_6_two_layers_of_root_parameters_end_and_are_named() -> None:
    """Tracing fixed the first of two nameless layers for ever, and gain-curve had no module."""
    torch.manual_seed(0)
    net = Net(
        root_parameters,
        w1=nn.Parameter(torch.randn(24, 3, 3, 3)),
        w2=nn.Parameter(torch.randn(5, 24, 3, 3)),
    )
    graph = trace(net, (3, 12, 12))
    assert graph.fixed["w1"] == "its code needs this channel count" and not graph.groups

    def free(n: Net, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, n.w1, padding=1).relu(), n.w2, padding=1).mean((2, 3))

    net = Net(free, w1=nn.Parameter(net.w1), w2=nn.Parameter(net.w2)).eval()
    assert list(trace(net, (3, 12, 12)).index) == ["w1"]
    batches = [(torch.randn(8, 3, 12, 12), torch.zeros(8, dtype=torch.int64))]
    slim = pruning.prune(net, batches, macs=0.5, method="gain-curve", repair="none")
    assert slim.model(batches[0][0]).shape == (8, 5) and len(slim.model.w1) < 24


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_finding_1_7_precisions(dtype: torch.dtype) -> None:
    net = usual(lambda n, x: pooled(n, n.b(n.a(x)))).to(dtype)
    graph = trace(net, (3, 12, 12))
    assert set(graph.index) == {"a", "b"}
    assert cut(net, graph, irregular(graph)).get_parameter("a.weight").dtype == dtype


def two(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return pooled(net, net.b(net.a(x) + net.a(y)))


def keyword(net: Net, *, image: Tensor) -> Tensor:
    return pooled(net, net.b(net.a(image)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: usual(two), "give example inputs"),
        (lambda: usual(keyword), "give example inputs"),
        (lambda: torch.jit.script(conv()), "the module it was made from"),
        (lambda: conv().to("meta"), "load its weights first"),
        (lambda: Net(lambda n, x: n.a(x), a=nn.LazyConv2d(8, 3)), "run one batch"),
        (lambda: lambda x: x, "no nn.Module"),
    ],
)
def test_finding_1_7_what_cannot_be_traced_is_refused_with_the_remedy(
    make: Callable[[], Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        trace(make(), (3, 12, 12))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_finding_1_7_wrappers_are_opened(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = usual(lambda n, x: pooled(n, n.b(n.a(x))))
    graph = trace(wrap(net), (3, 12, 12))
    assert graph == trace(net, (3, 12, 12))
    assert isinstance(cut(wrap(net), graph, irregular(graph)), Net)


def test_finding_1_7_the_remedies_work() -> None:
    x = torch.randn(2, 3, 12, 12)
    assert set(trace(usual(two), (x, x)).index) == {"a", "b"}
    assert set(trace(usual(keyword), {"image": x}).index) == {"a", "b"}


def test_finding_1_8_cores_where_a_system_does_not_tell_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """macOS has no sched_getaffinity; importing the module asked for it."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    # run, not reloaded: its classes would be others than those that its neighbours imported
    assert runpy.run_path(str(passes.__file__))["cores"]() >= 1


def test_finding_1_14_two_images_are_counted_once() -> None:
    """A network of two images, as raft_small: MACs are those of one pair."""
    net, x = usual(two), torch.randn(2, 3, 12, 12)
    each = 144 * 9 * (3 * 8 * 2 + 8 * 8) + 8 * 5
    assert Cost(trace(net, (x, x))).base_macs == each
