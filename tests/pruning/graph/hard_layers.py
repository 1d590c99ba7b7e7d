"""Layers, wrappers, inputs and outputs that are hard to cut, and those that are refused."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.pruning.graph.hard_networks import (
    Case,
    Dynamic,
    Net,
    Standardised,
    conv,
    frozen_bn,
    numbers,
    pooled,
    root_parameters,
    siamese,
    usual,
    with_aux,
)

LAYERS: dict[str, Case] = {
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
    "standardised convolutions": Case(
        lambda: usual(
            lambda n, x: pooled(n, n.b(n.a(x))), a=Standardised(3, 8, 3), b=Standardised(8, 8, 3)
        )
    ),
    "weight made of the image": Case(
        lambda: usual(lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=Dynamic(8, 8, 3)),
        fixed={"a": "mean"},
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
