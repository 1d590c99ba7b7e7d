#!/usr/bin/env python3
"""Detection by your own network: lists of images, a dictionary of boxes each, and your own metric.

    python examples/detection.py --trials 6 --out runs/detection

Batches are as torchvision's detectors take them; any other form will do as well. The task is to
find where in a scene the digits are; what they are is left out here.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, nms

import search
from search.data.dense import scenes

STEP = 4  # pixels from one place of the output to the next
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def pictures(split: str, count: int) -> Batch:
    """Images [1, 64, 64] of 0 to 1, and their boxes [n, 4]: left, top, right, bottom in pixels."""
    part = scenes(split, count)
    images = list(torch.from_numpy(part.images).float() / 255)
    there = [
        torch.from_numpy(own[kinds >= 0]) for own, kinds in zip(part.boxes, part.kinds, strict=True)
    ]
    return images, [{"boxes": boxes} for boxes in there]


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Finder(nn.Module):
    """[N, 5, 16, 16]: whether a centre is here, and the logs of the ways to the box's sides."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(1, 16, 2), block(16, 32, 2), block(32, 32, 1))
        self.deep = nn.Sequential(block(32, 64, 2), block(64, 64, 1))
        self.neck, self.head = block(96, 32, 1), nn.Conv2d(32, 5, 1)
        nn.init.constant_(self.head.bias[:1], -3.0)  # centres are rare

    def forward(self, images: list[Tensor]) -> Tensor:
        fine = self.body(torch.stack(list(images)))
        coarse = F.interpolate(self.deep(fine), scale_factor=2.0)
        return self.head(self.neck(torch.cat([fine, coarse], 1)))


class Digits:
    """The task: seven things that the search needs to know."""

    metric = search.Metric("AP@0.5", unit="%", chance=0.0)
    trained = False  # the network is trained first, as `base` says

    def model(self) -> nn.Module:
        return Finder()

    def example(self) -> list[Tensor]:
        return [torch.zeros(1, 64, 64), torch.zeros(1, 64, 64)]

    def train(self, seed: int) -> list[Batch]:
        images, targets = pictures("train", 480)
        order = np.random.default_rng(seed).permutation(len(images)).reshape(-1, 16)
        return [([images[i] for i in rows], [targets[i] for i in rows]) for rows in order]

    def inputs(self) -> list[list[Tensor]]:
        images, _ = pictures("train", 256)
        return [images[i : i + 32] for i in range(0, 256, 32)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, targets = batch
        found = model(images)
        wanted, there = torch.zeros_like(found), torch.zeros_like(found[:, 0])
        for i, target in enumerate(targets):
            left, top, right, bottom = (target["boxes"] / STEP).unbind(1)
            x, y = ((left + right) / 2).long(), ((top + bottom) / 2).long()
            ways = torch.stack([x + 0.5 - left, y + 0.5 - top, right - x - 0.5, bottom - y - 0.5])
            there[i, y, x] = 1
            wanted[i, 1:, y, x] = ways.clamp_min(0.1).log()
        centres = F.binary_cross_entropy_with_logits(found[:, 0], there, reduction="sum")
        off = F.smooth_l1_loss(found[:, 1:], wanted[:, 1:], reduction="none").sum(1)
        return (centres + (off * there).sum()) / there.sum().clamp_min(1)

    def distill(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
        """The whole network's centres as probabilities, its boxes where it sees centres."""
        with torch.no_grad():
            wanted = teacher(batch[0])
        ours, sure = student(batch[0]), wanted[:, :1].sigmoid()
        centres = F.binary_cross_entropy_with_logits(ours[:, :1], sure, reduction="sum")
        return (centres + ((ours - wanted)[:, 1:].abs() * sure).sum()) / sure.sum().clamp_min(1)

    def evaluate(self, model: nn.Module, split: str) -> float:
        images, targets = pictures(split, 120)
        device = next(model.parameters()).device
        output = torch.cat([model([x.to(device) for x in images[i : i + 60]]) for i in (0, 60)])
        hits: list[tuple[float, bool]] = []
        for (boxes, scores), target in zip(map(decode, output.cpu()), targets, strict=True):
            free = box_iou(boxes, target["boxes"])
            for row, score in zip(range(len(boxes)), scores.tolist(), strict=True):
                best = int(free[row].argmax())
                hits.append((score, bool(free[row, best] >= 0.5)))
                if hits[-1][1]:
                    free[:, best] = 0  # taken
        hits.sort(reverse=True)
        right = np.cumsum([hit for _, hit in hits])
        precision = right / np.arange(1, len(hits) + 1)
        reached = np.maximum.accumulate(precision[::-1])[::-1] * [hit for _, hit in hits]
        return float(reached.sum() / sum(len(target["boxes"]) for target in targets))


def decode(output: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [n, 4] of one image, the surest first, and how sure they are [n]."""
    scores, place = output[0].flatten().sigmoid().topk(20)
    x, y = place % output.shape[2] + 0.5, place // output.shape[2] + 0.5
    left, top, right, bottom = output[1:].flatten(1)[:, place].exp()
    boxes = STEP * torch.stack([x - left, y - top, x + right, y + bottom], 1)
    kept = nms(boxes, scores, 0.5)
    return boxes[kept], scores[kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=float, default=8, help="of the whole network's training")
    parser.add_argument("--at-most", default="50%", help="share of the MACs, of the point to load")
    parser.add_argument("--out", default="runs/detection", help="folder or URI of the run")
    options = parser.parse_args()
    adamw: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.01, "warmup": 0.1}
    result = search.run(
        task=Digits(),
        trials=options.trials,
        out=options.out,
        base=adamw | {"epochs": options.epochs, "lr": 0.004},
        finetune=adamw | {"epochs": 2, "lr": 0.002, "distill": 0.5, "distill_maps": "auto"},
        search={"final_seeds": 1, "min_ratio": 0.2},
    )
    whole = result.metric.show(result.record["base_score_test"])
    point = result.choose(at_most=options.at_most)
    print(f"{point}; the whole network {whole}")
    images, targets = pictures("test", 1)
    with torch.no_grad():
        boxes, _ = decode(point.load(Finder())(images)[0])
    print(f"{len(targets[0]['boxes'])} digits; the surest box is {boxes[0].round().tolist()}")


if __name__ == "__main__":
    main()
