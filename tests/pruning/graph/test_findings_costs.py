"""Findings 1.2 to 1.15 and 8.5 of the sweep: costs, norms, heads for training, wishes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from pruning.errors import UserError
from pruning.graph import ChannelGraph, Cost, cut, lattice, trace
from pruning.graph.tracing.verification import irregular
from pruning.models import resolve
from tests.pruning.graph.hard_networks import (
    Net,
    attention,
    cbr,
    conv,
    pooled,
    token_mixer,
    usual,
)


def counted(net: nn.Module, shape: tuple[int, ...]) -> float:
    torch.backends.mha.set_fastpath_enabled(False)
    # the counter of torch 2.11 does not know the CPU's flash attention
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() / 2


def folded(net: Net, x: Tensor) -> Tensor:
    frames = x.transpose(1, 2).flatten(0, 1)
    return net.fc(net.b(net.a(frames)).mean((2, 3)).view(len(x), -1, 8).mean(1))


def einsums(net: Net, x: Tensor) -> Tensor:
    x = net.a(x).flatten(2)
    return net.fc(torch.einsum("bcn,bdn->bcd", x, x).mean(2))


def heads(net: Net, x: Tensor) -> Tensor:
    x = net.a(x).flatten(2).transpose(1, 2)
    return net.fc(net.m(x, x, x, need_weights=False)[0].mean(1))


def biased(net: Net, x: Tensor) -> Tensor:
    """A network of its own makes a code of positions, once for all images, as SwinV2 does."""
    code = net.m(net.table).transpose(1, 2).view(1, 8, 12, 12)
    return pooled(net, net.b(net.a(x) + code))


def gathered(net: Net, x: Tensor) -> Tensor:
    """Regions of all images as rows that are filled in place, as detectors pool theirs."""
    x = net.b(net.a(x)).flatten(2).transpose(1, 2).flatten(0, 1)
    rows = torch.zeros(len(x), 8)
    order = torch.arange(len(x)).view(2, -1)
    for part in order:
        rows[part] = x[part]
    return net.fc(net.m(rows))


COSTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "weight norm": (
        lambda: usual(lambda n, x: pooled(n, n.b(n.a(x))), a=parametrizations.weight_norm(conv(3))),
        (3, 12, 12),
    ),
    "computed weight": (
        lambda: usual(
            lambda n, x: pooled(n, n.b(F.conv2d(n.a(x), n.w - n.w.mean()))),
            w=nn.Parameter(torch.randn(8, 8, 3, 3)),
        ),
        (3, 12, 12),
    ),
    "frames in the batch": (lambda: usual(folded), (3, 8, 12, 12)),
    "transposed": (
        lambda: usual(lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=nn.ConvTranspose2d(8, 8, 2, 2)),
        (3, 12, 12),
    ),
    "attention": (
        lambda: Net(
            attention,
            a=conv(3, 8),
            qkv=nn.Linear(8, 24),
            inner=nn.Linear(8, 16),
            out=nn.Linear(16, 6),
            fc=nn.Linear(6, 5),
        ),
        (3, 12, 12),
    ),
    "token mixer": (
        lambda: usual(token_mixer, mix=nn.Linear(144, 144)),
        (3, 12, 12),
    ),
    "bias of positions": (
        lambda: usual(
            biased,
            m=nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8)),
            table=torch.randn(1, 144, 2),
        ),
        (3, 12, 12),
    ),
    "rows filled in place": (lambda: usual(gathered, m=nn.Linear(8, 8)), (3, 12, 12)),
    "einsum": (lambda: usual(einsums), (3, 12, 12)),
    "multi-head attention": (
        lambda: usual(heads, m=nn.MultiheadAttention(8, 2, batch_first=True)),
        (3, 12, 12),
    ),
    "recurrent": (
        lambda: Net(
            lambda n, x: n.fc(n.r(n.a(x).mean(3).transpose(1, 2))[0].mean(1)),
            a=conv(3, 8),
            r=nn.LSTM(8, 8, batch_first=True),
            fc=nn.Linear(8, 5),
        ),
        (3, 12, 12),
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_finding_1_2_costs_are_those_of_torch(name: str) -> None:
    make, shape = COSTS[name]
    net = make().eval()
    graph = trace(net, shape)
    # torch's counter misses fused recurrent layers: 12 positions, two weights of 32 x 8
    missed = 12 * 2 * 32 * 8 if name == "recurrent" else 0
    assert Cost(graph).base_macs == pytest.approx(counted(net, shape) + missed, rel=1e-3)
    keep = irregular(graph)
    slim = cut(net, graph, keep)
    cost = Cost(graph).macs(graph.kept_widths(keep))
    assert cost == pytest.approx(counted(slim, shape) + missed, rel=1e-3)


def test_finding_1_2_what_is_not_counted_is_named() -> None:
    net = usual(
        lambda n, x: n.fc(torch.cdist(n.a(x).mean((2, 3)), n.w)),
        w=nn.Parameter(torch.randn(6, 8)),
        fc=nn.Linear(6, 5),
    )
    with pytest.warns(UserWarning, match="cdist"):
        graph = trace(net, (3, 8, 8))
    assert graph.uncounted == ("cdist",)
    assert ChannelGraph.from_json(graph.to_json()).uncounted == ("cdist",)


@pytest.mark.parametrize("outputs", [6, 8])
def test_finding_1_3_layer_norm_is_that_of_the_channels_that_stay(outputs: int) -> None:
    """Cut and masked network differ by nature; the cut one is the norm over what is left."""
    net = usual(
        lambda n, x: pooled(n, n.b(n.c(n.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))),
        width=outputs,
        c=nn.LayerNorm(outputs),
        b=conv(outputs, 8),
    ).eval()
    nn.init.normal_(net.c.weight)
    graph = trace(net, (3, 8, 8))
    keep = tuple(np.arange(1, group.units, 2) for group in graph.groups)
    left = np.arange(1, outputs, 2)
    slim, x = cut(net, graph, keep), torch.randn(2, 3, 8, 8)
    y = net.a(x)[:, left]
    mean, var = y.mean(1, keepdim=True), y.var(1, unbiased=False, keepdim=True)
    scale, shift = (t[left].view(1, -1, 1, 1) for t in (net.c.weight, net.c.bias))
    y = (y - mean) / (var + net.c.eps).sqrt() * scale + shift
    kept = keep[graph.index["b"]]
    expected = F.conv2d(y, net.b.weight[kept][:, left], net.b.bias[kept], padding=1)
    expected = expected.mean((2, 3)) @ net.fc.weight[:, kept].T + net.fc.bias
    torch.testing.assert_close(slim(x), expected, rtol=1e-4, atol=1e-5)


def test_finding_1_4_a_network_with_a_head_for_training_is_trained_after_the_cut() -> None:
    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = cbr(3, 8), cbr(8, 8)
            self.aux, self.fc = nn.Linear(8, 5), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            out = self.fc(self.b(x).mean((2, 3)))
            return out + 0.3 * self.aux(x.mean((2, 3))) if self.training else out

    net = Aux()
    graph = trace(net, (3, 8, 8))
    assert graph.fixed["aux"] == "used in training only"
    slim = cut(net, graph, irregular(graph)).train()
    slim(torch.randn(2, 3, 8, 8)).sum().backward()


def test_finding_1_15_graphs_compare_and_hash() -> None:
    graph = trace(resolve("digits"), (1, 8, 8))
    again = trace(resolve("digits"), (1, 8, 8))
    assert graph == again and hash(graph) == hash(again) and graph != "graph"
    assert graph != trace(resolve("digits"), (1, 16, 16))
    for units in ([1, -1, 2], [2, 1], [1, 1]):
        with pytest.raises(ValueError, match="rising"):
            graph.kept_units((np.array(units), *graph.full_keep()[1:]))


def test_finding_1_7_a_compiled_network_is_opened() -> None:
    net = usual(lambda n, x: pooled(n, n.b(n.a(x))))
    graph = trace(torch.compile(net), (3, 8, 8))
    assert graph == trace(net, (3, 8, 8))
    assert isinstance(cut(torch.compile(net), graph, irregular(graph)), Net)


def test_finding_8_5_what_may_be_cut_is_the_users_to_say() -> None:
    net = resolve("resnet20")
    free = trace(net, (3, 32, 32))
    graph = trace(net, (3, 32, 32), keep="layer2.0, layer3.1.conv1")
    assert {"layer3.1.conv1"} <= set(free.index) - set(graph.index)
    assert "kept by" in graph.fixed["layer2.0.conv1"]
    before = trace(net, (3, 32, 32), keep=["layer3.1.conv2:in"])
    assert "layer3.1.conv1" not in before.index
    with pytest.raises(UserError, match="layer2"):
        trace(net, (3, 32, 32), keep="layr2.0")
    lat = lattice(free, least={"layer1.*": 0.5, "conv1": 13, "layer2.0.conv1": 1.0})
    low = dict(zip(free.index, lat.low.tolist(), strict=True))
    assert low["layer1.0.conv1"] == 8 and low["conv1"] == 14 and low["layer2.0.conv1"] == 32
    with pytest.raises(UserError, match="share"):
        lattice(free, least={"conv1": -1})
