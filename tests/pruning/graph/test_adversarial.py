"""Fifty networks that are hard to cut, each with its verdict: whole, fixed with a reason, refused.

Whatever is cut is compared, in double precision, with the whole network whose readers of the
removed channels are zeroed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.graph.cost import Cost
from pruning.graph.surgery import cut
from pruning.graph.tracing import trace
from pruning.graph.tracing.verification import irregular
from tests.pruning.graph.hard_layers import LAYERS
from tests.pruning.graph.hard_operations import OPERATIONS
from tests.pruning.graph.test_surgery import zeroed

CASES = {**OPERATIONS, **LAYERS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    net = case.make()
    if case.refused:
        with pytest.raises(UserError, match=case.refused):
            trace(net, case.example)
        return
    net = net.eval()
    graph = trace(net, case.example)
    classifier = {"fc", "w2"} if "aux" not in case.fixed else {"fc"}
    assert set(graph.fixed) - classifier == set(case.fixed), graph.fixed
    for layer, words in case.fixed.items():
        assert words in graph.fixed[layer]
    assert graph.groups or len(case.fixed) >= len(graph.layers) - 1
    keep = irregular(graph, seed=7)
    slim = cut(net.double(), graph, keep)
    args, kwargs = inputs(case.example)
    if isinstance(net, nn.DataParallel):
        net = net.module
    if not case.mixes:
        same(slim(*args, **kwargs), whole(net, graph, keep)(*args, **kwargs))
    assert Cost(graph).macs(graph.kept_widths(keep)) <= Cost(graph).base_macs


def inputs(example: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    if isinstance(example, dict):
        return (), {key: value.double() for key, value in example.items()}
    if isinstance(example[0], Tensor):
        return tuple(x.double() for x in example), {}
    return (torch.randn(2, *example, dtype=torch.float64),), {}


def whole(net: nn.Module, graph: Any, keep: Any) -> nn.Module:
    from pruning.graph.opening import plain

    return zeroed(plain(net), graph, keep)


def same(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        ours, theirs = ours["out"], theirs["out"]
    if isinstance(ours, SimpleNamespace):
        ours, theirs = ours.out, theirs.out
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_there_are_fifty() -> None:
    assert len(CASES) == len(OPERATIONS) + len(LAYERS) >= 50
