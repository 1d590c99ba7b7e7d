"""Fifty networks that are hard to cut, each with its verdict: whole, fixed with a reason, refused.

Whatever is cut is compared, in double precision, with the whole network whose readers of the
removed channels are zeroed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from pruning.errors import UserError
from pruning.graph.cost import Cost
from pruning.graph.surgery import cut
from pruning.graph.tracing import trace
from pruning.graph.tracing.verification import irregular
from tests.pruning.graph.test_surgery import zeroed


class Net(nn.Module):
    """A forward pass written as a function of the network and its inputs."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def conv(inputs: int = 8, outputs: int = 8, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def cbr(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU())


def pooled(net: Net, x: Tensor) -> Tensor:
    return net.fc(x.mean((2, 3)))


def usual(run: Callable[..., Any], width: int = 8, **parts: Any) -> Net:
    """Stem a and layer b around the operation, then pooling and a classifier."""
    stem = {"a": conv(3, width), "b": conv(width, 8), "fc": nn.Linear(8, 5)}
    return Net(run, **{**stem, **parts})


@dataclass(frozen=True)
class Case:
    """fixed: words of the reason by layer, all others but the output are free; refused: words."""

    make: Callable[[], nn.Module]
    fixed: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    example: Any = (3, 12, 12)
    mixes: bool = False


def shuffled(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    b, c, h, w = x.shape
    x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
    return pooled(net, net.b(x))


def overwritten(net: Net, x: Tensor) -> Tensor:
    o = x.new_zeros(len(x), 8, 12, 12)
    o[:] = net.a(x)
    return pooled(net, net.b(o))


def rolled(net: Net, x: Tensor) -> Tensor:
    return pooled(net, net.b(torch.roll(net.a(x), 1, 1)))


def half(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    c = x.shape[1] // 2
    return pooled(net, net.b(torch.cat([x[:, :c] * 2, x[:, c:]], 1)))


def in_parts(net: Net, x: Tensor) -> Tensor:
    first, second = torch.split(net.a(x), net.part, 1)
    return pooled(net, net.b(torch.cat([first, net.c(second)], 1)))


def squeeze_excite(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    gate = net.up(net.down(x.mean((2, 3))).relu()).sigmoid()
    return pooled(net, net.b(x * gate.view(len(x), -1, 1, 1).expand_as(x)))


def spatial_attention(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    return pooled(net, net.b(x * net.c(x).sigmoid().expand_as(x)))


def fires_of(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    return pooled(net, net.b(torch.cat([net.c(x), net.d(x), x], 1)))


def branches(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    both = torch.stack([net.c(x), net.d(x)], 1)
    weights = both.mean((3, 4), keepdim=True).softmax(1)
    return pooled(net, net.b((both * weights).sum(1)))


def global_context(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    mask = net.c(x).flatten(2).softmax(-1).unsqueeze(-1)
    context = torch.matmul(x.flatten(2).unsqueeze(1), mask).transpose(1, 2)
    return pooled(net, net.b(x + context.reshape(len(x), -1, 1, 1)))


def attention(net: Net, x: Tensor) -> Tensor:
    x = net.a(x).flatten(2).transpose(1, 2)
    q, k, v = net.qkv(x).chunk(3, -1)
    x = F.scaled_dot_product_attention(q, k, v)
    return net.fc(net.out(net.inner(x).relu()).mean(1))


def token_mixer(net: Net, x: Tensor) -> Tensor:
    x = net.a(x).flatten(2)
    x = net.mix(x).view(len(x), -1, 12, 12)
    return pooled(net, net.b(x))


def with_aux(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    main = pooled(net, net.b(x))
    return main + 0.3 * net.aux(x.mean((2, 3))) if net.training else main


def root_parameters(net: Net, x: Tensor) -> Tensor:
    x = F.conv2d(x, net.w1, padding=1).relu()
    assert x.shape[1] == 24
    return F.conv2d(x, net.w2, padding=1).mean((2, 3))


def siamese(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return pooled(net, net.b((net.a(x) - net.a(y)).abs()))


def dense(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    for block in net.blocks:
        x = torch.cat([x, block(x)], 1)
    return pooled(net, net.b(x))


def lenet(net: Net, x: Tensor) -> Tensor:
    x = F.max_pool2d(net.a(x).relu(), 4)
    return net.fc(net.hidden(x.view(x.size(0), -1)).relu())


def frozen_bn(net: Net, x: Tensor) -> Tensor:
    scale = net.gamma * (net.var + 1e-5).rsqrt()
    shift = net.beta - net.mean * scale
    x = net.a(x) * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
    return pooled(net, net.b(x))


def numbers() -> dict[str, Any]:
    return {name: torch.rand(8) + 0.5 for name in ("gamma", "var", "beta", "mean")}


CASES: dict[str, Case] = {
    "plain": Case(lambda: usual(lambda n, x: pooled(n, n.b(n.a(x).relu())))),
    "view flatten": Case(
        lambda: Net(lenet, a=conv(3, 8), hidden=nn.Linear(72, 9), fc=nn.Linear(9, 5))
    ),
    "literal flatten": Case(
        lambda: Net(
            lambda n, x: n.fc(F.adaptive_avg_pool2d(n.b(n.a(x)), 2).reshape(-1, 32)),
            a=conv(3, 8),
            b=conv(),
            fc=nn.Linear(32, 5),
        ),
        fixed={"b": "this channel count"},
    ),
    "softmax over channels": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.a(x).softmax(1)))), fixed={"a": "softmax"}
    ),
    "softmax over positions": Case(lambda: usual(lambda n, x: pooled(n, n.b(n.a(x).softmax(2))))),
    "roll over channels": Case(lambda: usual(rolled), fixed={"a": "roll"}),
    "roll over the image": Case(lambda: usual(lambda n, x: pooled(n, n.b(n.a(x).roll(3, 2))))),
    "flip over channels": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.a(x).flip(1)))), fixed={"a": "flip"}
    ),
    "channel shuffle module": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.s(n.a(x)))), s=nn.ChannelShuffle(2))
    ),
    "channel shuffle by view": Case(lambda: usual(shuffled)),
    "pooling over channels": Case(
        lambda: Net(
            lambda n, x: n.fc(F.avg_pool1d(n.a(x).mean((2, 3)), 3, 1, 1)),
            a=conv(3, 8),
            fc=nn.Linear(8, 5),
        ),
        fixed={"a": "avg_pool1d"},
    ),
    "written into zeros": Case(lambda: usual(overwritten), fixed={"a": "setitem"}),
    "divided by its width": Case(
        lambda: usual(lambda n, x: pooled(n, n.b((y := n.a(x)) / y.shape[1]))),
        fixed={"a": "differ"},
    ),
    "mean over channels": Case(
        lambda: usual(lambda n, x: pooled(n, n.b((y := n.a(x)) * y.mean(1, keepdim=True)))),
        fixed={"a": "mean"},
    ),
    "cosine over channels": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(F.normalize(n.a(x), dim=1)))),
        fixed={"a": "normalize"},
    ),
    "chunk": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(torch.mul(*n.a(x).chunk(2, 1)))), width=16, b=conv(8, 8)
        )
    ),
    "glu": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(F.glu(n.a(x), 1))), width=16, b=conv(8, 8))
    ),
    "half by slices": Case(lambda: usual(half)),
    "split by an attribute": Case(lambda: usual(in_parts, c=conv(4, 4), part=4)),
    "unequal split by attributes": Case(
        lambda: usual(in_parts, c=conv(2, 2), part=(6, 2)), fixed={"a": "split"}
    ),
    "every second channel": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.a(x)[:, ::2])), b=conv(4, 8)),
        fixed={"a": "getitem"},
    ),
    "one channel": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.a(x)[:, 0:1])), b=conv(1, 8)),
        fixed={"a": "getitem"},
    ),
    "index in a buffer": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.a(x)[:, n.order])), order=torch.randperm(8)),
        fixed={"a": "getitem"},
    ),
    "pixel shuffle": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(n.p(n.a(x)))), width=16, b=conv(4, 8), p=nn.PixelShuffle(2)
        )
    ),
    "pixel unshuffle": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(F.pixel_unshuffle(n.a(x), 2))), b=conv(32, 8))
    ),
    "squeeze and excite, expand_as": Case(
        lambda: usual(squeeze_excite, down=nn.Linear(8, 4), up=nn.Linear(4, 8))
    ),
    "spatial attention, expand_as": Case(
        lambda: usual(spatial_attention, c=conv(8, 1)),
        fixed={"c": "tied to each other"},
    ),
    "concatenation": Case(lambda: usual(fires_of, c=conv(8, 6), d=conv(8, 5), b=conv(19, 8))),
    "dense block": Case(
        lambda: usual(dense, blocks=nn.ModuleList([conv(8, 4), conv(12, 4)]), b=conv(16, 8))
    ),
    "branches weighed by softmax": Case(lambda: usual(branches, c=conv(), d=conv())),
    "global context": Case(lambda: usual(global_context, c=conv(8, 1)), fixed={"c": "spread"}),
    "attention": Case(
        lambda: Net(
            attention,
            a=conv(3, 8),
            qkv=nn.Linear(8, 24),
            inner=nn.Linear(8, 16),
            out=nn.Linear(16, 6),
            fc=nn.Linear(6, 5),
        ),
        fixed={"qkv": "attention"},
    ),
    "token mixer": Case(
        lambda: usual(token_mixer, mix=nn.Linear(144, 144)), fixed={"mix": "positions"}
    ),
    "grouped convolution": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=conv(groups=4))
    ),
    "depthwise": Case(lambda: usual(lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=conv(groups=8))),
    "depth multiplier": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=conv(8, 16, groups=8), b=conv(16, 8)
        )
    ),
    "transposed": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=nn.ConvTranspose2d(8, 6, 2, 2), b=conv(6, 8)
        )
    ),
    "transposed depthwise": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=nn.ConvTranspose2d(8, 8, 2, 2, groups=8)
        )
    ),
    "affine instance norm": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=nn.InstanceNorm2d(8, affine=True))
    ),
    "group norm": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=nn.GroupNorm(4, 8))
    ),
    "group norm of one group": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=nn.GroupNorm(1, 8)), mixes=True
    ),
    "layer norm": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(n.c(n.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))),
            c=nn.LayerNorm(8),
        ),
        mixes=True,
    ),
    "reshaped parameters": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(n.a(x) * (1 + n.g.view(1, -1, 1, 1)))),
            g=nn.Parameter(torch.rand(8)),
        )
    ),
    "frozen batch norm": Case(lambda: usual(frozen_bn, **numbers())),
    "weight norm": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(n.a(x))), a=parametrizations.weight_norm(conv(3, 8))
        )
    ),
    "old weight norm": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.a(x))), a=nn.utils.weight_norm(conv(3, 8)))
    ),
    "spectral norm": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.a(x))), b=parametrizations.spectral_norm(conv()))
    ),
    "standardised weight": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(F.conv2d(n.a(x), n.w / n.w.std((1, 2, 3), keepdim=True)))),
            w=nn.Parameter(torch.randn(8, 8, 3, 3)),
        ),
        fixed={"a": "computed"},
    ),
    "parameters of the root": Case(
        lambda: Net(
            root_parameters,
            w1=nn.Parameter(torch.randn(24, 3, 3, 3)),
            w2=nn.Parameter(torch.randn(5, 24, 3, 3)),
        ),
        fixed={"w1": "this channel count"},
    ),
    "head of training": Case(
        lambda: usual(with_aux, aux=nn.Linear(8, 5)), fixed={"aux": "training only"}
    ),
    "two images": Case(
        lambda: usual(siamese), example=(torch.randn(2, 3, 12, 12), torch.randn(2, 3, 12, 12))
    ),
    "keywords": Case(
        lambda: usual(lambda n, *, image: pooled(n, n.b(n.a(image)))),
        example={"image": torch.randn(2, 3, 12, 12)},
    ),
    "shared layer": Case(lambda: usual(lambda n, x: pooled(n, n.b(n.c(n.c(n.a(x))))), c=conv())),
    "double precision": Case(lambda: usual(lambda n, x: pooled(n, n.b(n.a(x)))).double()),
    "half precision": Case(lambda: usual(lambda n, x: pooled(n, n.b(n.a(x)))).bfloat16()),
    "data parallel": Case(lambda: nn.DataParallel(usual(lambda n, x: pooled(n, n.b(n.a(x)))))),
    "dictionary out": Case(lambda: usual(lambda n, x: {"out": pooled(n, n.b(n.a(x)))})),
    "namespace out": Case(lambda: usual(lambda n, x: SimpleNamespace(out=pooled(n, n.b(n.a(x)))))),
    "nothing comes out": Case(lambda: usual(lambda n, x: object()), refused="no tensor was found"),
    "wrong input": Case(lambda: usual(lambda n, x: n.a(x)), example=(4, 12, 12), refused="example"),
    "two inputs from a shape": Case(lambda: usual(siamese), refused="example inputs"),
    "no input at all": Case(lambda: usual(siamese), example="x", refused="no input"),
    "lazy": Case(lambda: Net(lambda n, x: n.a(x), a=nn.LazyConv2d(8, 3)), refused="one batch"),
    "meta": Case(lambda: conv().to("meta"), refused="meta device"),
    "script": Case(lambda: torch.jit.script(conv()), refused="ScriptModule"),
}


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
    assert len(CASES) >= 50
    assert np.all([case.make is not None for case in CASES.values()])
