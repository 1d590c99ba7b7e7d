"""The zoo's own networks, for small images, with torchvision's tensor names."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


def cifar_resnet(depth: int, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet of 6n+2 layers for 32x32 images, with 1x1 shortcuts (option B).

    He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2.
    """
    return _resnet((16, 32, 64), (depth - 2) // 6, num_classes, in_channels)


def digits(num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """Small residual network for 8x8 images: 1.1 M MACs, six groups, two residual streams."""
    return _resnet((16, 32), 2, num_classes, in_channels)


def vgg16_bn(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG-16 with batch norm and one linear layer, for 32x32 images."""
    plan: list[int | str] = torchvision.models.vgg.cfgs["D"]
    layers: list[nn.Module] = []
    for width in plan:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        in_channels = width
    return _network(
        {"features": nn.Sequential(*layers)}, {"classifier": nn.Linear(in_channels, num_classes)}
    )


def mobilenet_v2(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """torchvision's MobileNetV2 with strides for 32x32 images (4x4 before pooling)."""
    widths = (16, 24, 32, 64, 96, 160, 320)
    repeats, strides = (1, 2, 3, 4, 3, 3, 1), (1, 1, 2, 2, 1, 2, 1)
    plan = [
        [1 if width == 16 else 6, width, repeat, stride]
        for width, repeat, stride in zip(widths, repeats, strides, strict=True)
    ]
    model = torchvision.models.MobileNetV2(num_classes, inverted_residual_setting=plan)
    stem = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    model.features[0][0] = stem
    return model


def densenet40(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """DenseNet of 40 layers, growth 12, no bottleneck and no compression, for 32x32 images.

    Huang et al., Densely Connected Convolutional Networks, 2017, table 2.
    """
    width, growth, depth = 16, 12, 12
    features: dict[str, nn.Module] = {"conv0": nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)}
    for block in (1, 2, 3):
        layers = {
            f"denselayer{i + 1}": _DenseLayer(width + i * growth, growth) for i in range(depth)
        }
        features[f"denseblock{block}"] = nn.Sequential(OrderedDict(layers))
        width += depth * growth
        if block < 3:
            transition = torchvision.models.densenet._Transition(width, width)
            features[f"transition{block}"] = transition
    features |= {"norm5": nn.BatchNorm2d(width), "relu5": nn.ReLU(inplace=True)}
    return _network(
        {"features": nn.Sequential(OrderedDict(features))},
        {"classifier": nn.Linear(width, num_classes)},
    )


class _DenseLayer(nn.Module):
    """New channels from all earlier ones, appended to them."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv1(self.relu1(self.norm1(x)))], 1)


def _resnet(widths: tuple[int, ...], blocks: int, num_classes: int, in_channels: int) -> nn.Module:
    width = widths[0]
    body: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
    }
    for i, out in enumerate(widths, start=1):
        stride = 1 if i == 1 else 2
        layers = [BasicBlock(width, out, stride, _shortcut(width, out, stride))]
        layers += [BasicBlock(out, out) for _ in range(blocks - 1)]
        body[f"layer{i}"] = nn.Sequential(*layers)
        width = out
    return _network(body, {"fc": nn.Linear(width, num_classes)})


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if inputs == outputs and stride == 1:
        return None
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _network(body: dict[str, nn.Module], head: dict[str, nn.Module]) -> nn.Module:
    """Body, global average pooling and classifier in sequence, under torchvision's names."""
    pool: dict[str, nn.Module] = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    model = nn.Sequential(OrderedDict(body | pool | head))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
