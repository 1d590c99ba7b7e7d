"""A part of scripts/bench/reach.py: networks of others, cut, counted and left untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pruning.graph import Cost, cut, lattice, trace, twin
from pruning.graph.tracing.tracer import check
from pruning.graph.tracing.verification import irregular
from pruning.graph.twins import named_tensors
from pruning.models import resolve

TIMM = """byobnet convnext convnext2 convnext3 efficientnet efficientnet_ln efficientnet_evos
    mambaout nfnet resnet vit vit2 vit4""".split()
SMALL = """torchvision:shufflenet_v2_x0_5 torchvision:squeezenet1_1 torchvision:mnasnet0_5
    torchvision:mobilenet_v3_small torchvision:resnet18 timm:repghostnet_050 timm:ghostnet_050
    timm:cspnext_tiny timm:convnext_atto timm:lcnet_035 timm:tinynet_e timm:fasternet_t0""".split()
LARGER = """torchvision:googlenet torchvision:densenet121 torchvision:regnet_y_400mf
    torchvision:efficientnet_b0 torchvision:convnext_tiny timm:res2net50_26w_4s timm:cspdarknet53
    timm:dla34 timm:skresnet18 timm:hrnet_w18_small timm:mobilevit_xxs timm:repvgg_a0
    timm:dpn48b""".split()
EXACT_TO = 1e-3  # of torch's own count
OWN = ("digits", "resnet20", "vgg16_bn", "mobilenet_v2", "densenet40")
SLOW = pytest.mark.nightly(reason="a second or more each")


def cases() -> list[Any]:
    shapes = {"digits": (1, 8, 8)}
    found = [pytest.param(name, shapes.get(name, (3, 32, 32)), id=name) for name in OWN]
    found += [pytest.param(f"timm:test_{name}", None, id=f"timm-{name}") for name in TIMM]
    found += [pytest.param(name, (3, 64, 64), id=name) for name in SMALL]
    return found + [pytest.param(name, (3, 64, 64), id=name, marks=SLOW) for name in LARGER]


def counted(net: torch.nn.Module, shape: tuple[int, ...]) -> float:
    """MACs for one image by torch's counter, on shapes alone."""
    tensors = {n: torch.empty_like(t, device="meta") for n, t in named_tensors(net).items()}
    runs = twin(net, tensors).eval().requires_grad_(False)
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        runs(torch.zeros(1, *shape, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(("name", "shape"), cases())
def test_exact_counted_and_untouched(name: str, shape: tuple[int, ...] | None) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is an extra")
    torch.manual_seed(0)
    net = resolve(name)
    shape = shape or tuple(net.default_cfg["input_size"])  # type: ignore[arg-type, index]
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    graph = trace(net, shape)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert check(net, graph, shape, seed=5) is None
    cost, keep = Cost(graph), irregular(graph, 2)
    assert cost.base_macs == pytest.approx(counted(net, shape), rel=EXACT_TO)
    slim = cut(net, graph, keep)
    assert cost.macs(graph.kept_widths(keep)) == pytest.approx(counted(slim, shape), rel=EXACT_TO)
    if not any(kind in name for kind in ("vit", "evos")):
        assert cost.macs(lattice(graph).low) < cost.base_macs / 2
