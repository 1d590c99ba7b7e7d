#!/usr/bin/env python3
"""The share of eight networks' MACs that can be cut away; run in an older checkout, what it was.

Four are public; a ResNet with squeeze-and-excitation written with expand_as, a U-Net and a network
of YOLO's C3 and SPPF blocks are as most repositories write them. The share is one less the least
MACs (those of pruning.lattice(graph).low), and 0 where tracing fails.

python scripts/bench/reach_gains.py
PYTHONPATH=OLDER_CHECKOUT python scripts/bench/reach_gains.py
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pruning


def cbs(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        return x * self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1).expand_as(x)


class SEBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            cbs(inputs, outputs, 3, stride), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs), SqueezeExcite(outputs),
        )  # fmt: skip
        self.short = cbs(inputs, outputs, 1, stride)[:2] if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.short(x)).relu()


def se_resnet() -> nn.Module:
    widths = (64, 128, 256, 512)
    blocks = [cbs(3, 64, 3)]
    for before, width in zip((64, *widths), widths, strict=False):
        blocks += [SEBlock(before, width, 1 + (width > 64)), SEBlock(width, width, 1)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class UNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()

        def double(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(cbs(a, b, 3), cbs(b, b, 3))

        self.down = nn.ModuleList(map(double, (3, *widths[:-1]), widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, 2) for a, b in itertools.pairwise(widths)
        )
        self.merge = nn.ModuleList(double(2 * a, a) for a in widths[:-1])
        self.out = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for i, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if i else x)
            seen.append(x)
        for up, merge, kept in zip(self.up[::-1], self.merge[::-1], seen[-2::-1], strict=True):
            x = merge(torch.cat([kept, up(x)], 1))
        return self.out(x)


class Bottleneck(nn.Module):
    def __init__(self, width: int, add: bool) -> None:
        super().__init__()
        self.first, self.second, self.add = cbs(width, width), cbs(width, width, 3), add

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return x + y if self.add else y


class C3(nn.Module):
    def __init__(self, inputs: int, outputs: int, count: int = 1, add: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.first, self.second, self.third = (
            cbs(inputs, half),
            cbs(inputs, half),
            cbs(2 * half, outputs),
        )
        self.blocks = nn.Sequential(*(Bottleneck(half, add) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.cat((self.blocks(self.first(x)), self.second(x)), 1))


class C2f(nn.Module):
    def __init__(self, inputs: int, outputs: int, count: int = 1) -> None:
        super().__init__()
        self.half = outputs // 2
        self.first = cbs(inputs, 2 * self.half)
        self.second = cbs((2 + count) * self.half, outputs)
        self.blocks = nn.ModuleList(Bottleneck(self.half, True) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).split((self.half, self.half), 1))
        parts.extend(block(parts[-1]) for block in self.blocks)
        return self.second(torch.cat(parts, 1))


class SPPF(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = cbs(inputs, inputs // 2), cbs(2 * inputs, outputs)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.pool(x)
        z = self.pool(y)
        return self.second(torch.cat((x, y, z, self.pool(z)), 1))


class Yolo(nn.Module):
    """Backbone, a path up and a path down, a head of three scales; classes and boxes together."""

    def __init__(self, outputs: int = 3 * 85) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbs(3, 16, 3, 2), cbs(16, 32, 3, 2), C3(32, 32))
        self.p3 = nn.Sequential(cbs(32, 64, 3, 2), C3(64, 64, 2))
        self.p4 = nn.Sequential(cbs(64, 128, 3, 2), C2f(128, 128, 2))
        self.p5 = nn.Sequential(cbs(128, 256, 3, 2), C3(256, 256), SPPF(256, 256))
        self.lateral5, self.lateral4 = cbs(256, 128), cbs(128, 64)
        self.up4, self.up3 = C3(256, 128, add=False), C3(128, 64, add=False)
        self.down4, self.down5 = cbs(64, 64, 3, 2), cbs(128, 128, 3, 2)
        self.out4, self.out5 = C3(128, 128, add=False), C3(256, 256, add=False)
        self.heads = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in (64, 128, 256))
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        p5 = self.lateral5(self.p5(p4))
        m4 = self.lateral4(self.up4(torch.cat((self.up(p5), p4), 1)))
        n3 = self.up3(torch.cat((self.up(m4), p3), 1))
        n4 = self.out4(torch.cat((self.down4(n3), m4), 1))
        n5 = self.out5(torch.cat((self.down5(n4), p5), 1))
        return [head(n) for head, n in zip(self.heads, (n3, n4, n5), strict=True)]


def public(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        if name.startswith("timm:"):
            import timm

            return timm.create_model(name[5:], pretrained=False)
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return make


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ShuffleNetV2 ×1": (public("shufflenet_v2_x1_0"), (3, 64, 64)),
    "CSPDarknet53": (public("timm:cspdarknet53"), (3, 64, 64)),
    "Res2Net-50 26w 4s": (public("timm:res2net50_26w_4s"), (3, 64, 64)),
    "ConvNeXt-T": (public("convnext_tiny"), (3, 64, 64)),
    "SE-ResNet-18, expand_as": (se_resnet, (3, 64, 64)),
    "U-Net, ConvTranspose": (UNet, (3, 64, 64)),
    "YOLO-like, C3, C2f, SPPF": (Yolo, (3, 64, 64)),
    "R3D-18": (public("r3d_18"), (3, 8, 64, 64)),
}


def reach(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    began = time.process_time()
    try:
        graph = pruning.trace(model, shape)
    except Exception as error:
        return {"share": 0.0, "error": f"{type(error).__name__}: {error}"[:100]}
    cost, low = pruning.Cost(graph), pruning.lattice(graph).low
    half = pruning.lattice(graph).snap(graph.widths * 0.5)
    return {
        "share": round(1 - cost.macs(low) / max(cost.base_macs, 1), 4),
        "at_half_the_widths": round(cost.macs(half) / max(cost.base_macs, 1), 4),
        "fixed": len(graph.fixed),
        "layers": len(graph.layers),
        "trace_s": round(time.process_time() - began, 2),
    }


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, (make, shape) in NETWORKS.items():
        torch.manual_seed(0)
        print(json.dumps({"network": name, **reach(make().eval(), shape)}), flush=True)


if __name__ == "__main__":
    main()
