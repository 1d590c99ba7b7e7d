"""The zoo's own networks, for small images, with torchvision's tensor names.

torchvision itself, a second to import for each of a search's processes, is not needed by most.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0 pools


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
    layers: list[nn.Module] = []
    for width in VGG16:
        if not width:
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
    from torchvision.models import MobileNetV2

    widths = (16, 24, 32, 64, 96, 160, 320)
    repeats, strides = (1, 2, 3, 4, 3, 3, 1), (1, 1, 2, 2, 1, 2, 1)
    plan = [
        [1 if width == 16 else 6, width, repeat, stride]
        for width, repeat, stride in zip(widths, repeats, strides, strict=True)
    ]
    model = MobileNetV2(num_classes, inverted_residual_setting=plan)
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
            features[f"transition{block}"] = _transition(width)
    features |= {"norm5": nn.BatchNorm2d(width), "relu5": nn.ReLU(inplace=True)}
    return _network(
        {"features": nn.Sequential(OrderedDict(features))},
        {"classifier": nn.Linear(width, num_classes)},
    )


def _transition(width: int) -> nn.Module:
    layers: dict[str, nn.Module] = {
        "norm": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
        "conv": nn.Conv2d(width, width, 1, bias=False),
        "pool": nn.AvgPool2d(2, 2),
    }
    return nn.Sequential(OrderedDict(layers))


class _DenseLayer(nn.Module):
    """New channels from all earlier ones, appended to them."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv1(self.relu1(self.norm1(x)))], 1)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def _resnet(widths: tuple[int, ...], blocks: int, num_classes: int, in_channels: int) -> nn.Module:
    width = widths[0]
    body: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
    }
    for i, out in enumerate(widths, start=1):
        stride = 1 if i == 1 else 2
        layers = [_BasicBlock(width, out, stride)]
        layers += [_BasicBlock(out, out) for _ in range(blocks - 1)]
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
