"""Operations that are hard to follow: parts, shuffles, sums, products of activations."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.pruning.graph.hard_networks import (
    Case,
    Net,
    attention,
    branches,
    conv,
    dense,
    fires_of,
    global_context,
    half,
    in_numbers,
    in_parts,
    lenet,
    overwritten,
    partly_added,
    pooled,
    rolled,
    shuffled,
    spatial_attention,
    squeeze_excite,
    token_mixer,
    usual,
    widened,
)

OPERATIONS: dict[str, Case] = {
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
    "unequal split by attributes": Case(lambda: usual(in_parts, c=conv(2, 2), part=(6, 2))),
    "unequal split by numbers in the code": Case(
        lambda: usual(in_numbers, c=conv(2, 2)), fixed={"a": "split"}
    ),
    "shortcut to some channels": Case(
        lambda: usual(partly_added, c=conv(8, 13), own=8, b=conv(13, 8))
    ),
    "numbers that are compared": Case(
        lambda: usual(widened, inner=8, outer=16, c=conv(8, 16), d=conv(8, 16, 1), b=conv(16, 8)),
        fixed={"c": "this channel count", "d": "this channel count"},
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
}
