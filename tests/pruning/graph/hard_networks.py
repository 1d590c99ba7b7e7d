"""Parts of networks that are hard to cut, written as functions, and what is expected of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class Standardised(nn.Conv2d):
    """Filters of mean zero and variance one, made at every call, as in BiT and NFNets."""

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (var + 1e-6).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Dynamic(nn.Conv2d):
    """Its weight depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * x.square().mean().sigmoid()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


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


def in_numbers(net: Net, x: Tensor) -> Tensor:
    first, second = net.a(x).split([6, 2], 1)
    return pooled(net, net.b(torch.cat([first, net.c(second)], 1)))


def partly_added(net: Net, x: Tensor) -> Tensor:
    """A shortcut to the first channels only, as RexNet has."""
    x = net.a(x)
    y = net.c(x)
    return pooled(net, net.b(torch.cat([y[:, : net.own] + x, y[:, net.own :]], 1)))


def widened(net: Net, x: Tensor) -> Tensor:
    """Projects the shortcut where two numbers differ: at half the widths they do not."""
    x = net.a(x)
    y = net.c(x).view(len(x), net.outer, 12, 12)
    short = net.d(x) if net.inner != net.outer else x
    return pooled(net, net.b(y + short))


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
