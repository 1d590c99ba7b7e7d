"""The networks that structural tests run over."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.tracing import trace
from pruning.models.registry import resolve

SHAPES: dict[str, tuple[int, int, int]] = {
    "digits": (1, 8, 8),
    "resnet20": (3, 32, 32),
    "vgg16_bn": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "densenet40": (3, 32, 32),
    "torchvision:resnet50": (3, 64, 64),
    "torchvision:efficientnet_b0": (3, 64, 64),
}
MODELS = list(SHAPES)
MORE_SHAPES = {
    "torchvision:resnext50_32x4d": (3, 64, 64),  # grouped convolutions
    "torchvision:shufflenet_v2_x1_0": (3, 64, 64),  # channel split and shuffle
    "torchvision:googlenet": (3, 64, 64),  # nested concatenation
    "torchvision:vgg11_bn": (3, 64, 64),  # flatten repeats channels
    "torchvision:convnext_tiny": (3, 64, 64),  # layer norm, layer scale
    "torchvision:regnet_y_400mf": (3, 64, 64),  # grouped convolutions with squeeze-excitation
}


@cache
def model(name: str) -> nn.Module:
    """A network in eval mode with random weights and lively BN statistics; do not modify it."""
    torch.manual_seed(0)
    net = resolve(name)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.3),
                (module.running_var, 0.6),
                (module.weight, 0.6),
                (module.bias, -0.3),
            ):
                assert tensor is not None
                tensor.data = low + 0.6 * torch.rand(tensor.shape, generator=generator)
    return net.eval()


@cache
def graph(name: str) -> ChannelGraph:
    return trace(model(name), (SHAPES | MORE_SHAPES)[name])


def images(name: str, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, *(SHAPES | MORE_SHAPES)[name], generator=generator)


def random_keep(graph: ChannelGraph, seed: int) -> Keep:
    """Random units of every group, at least one each."""
    generator = torch.Generator().manual_seed(seed)
    keep = []
    for group in graph.groups:
        count = int(torch.randint(1, group.units + 1, (1,), generator=generator))
        order = torch.randperm(group.units, generator=generator)[:count]
        keep.append(order.sort().values.numpy())
    return tuple(keep)
