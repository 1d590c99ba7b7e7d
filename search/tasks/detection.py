"""Detection on the embedded scenes: a detector of centres, its loss, and mAP at half overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.config import Config
from search.data import dense
from search.pareto import Metric
from search.tasks.average_precision import Found, mean_average_precision
from search.tasks.pictures import Pictures, Shuffled, built

STEP = 4  # pixels from one place of the output to the next
MOST = 20  # boxes of an image that are kept, the surest
RADIUS = 0.35  # of a centre's bump, as a share of half the box


class Detection:
    """A network of [N, kinds + 4, H/4, W/4] (see pruning.models.dense.CenterDetector); a `Task`."""

    trained = False

    def __init__(
        self, config: Config, network: nn.Module | None, splits: Mapping[str, dense.Scenes]
    ) -> None:
        self.config, self.splits = config, splits
        self.pictures = {
            name: Pictures(torch.from_numpy(part.images), dense.MEAN, dense.STD)
            for name, part in splits.items()
        }
        self.kinds = dense.KINDS
        made = built(config, network, self.pictures["train"], self.kinds)
        self.network, self.origin = made
        self.metric = Metric("mAP@0.5", "%", "max", chance=0.0)
        self.mean, self.std = dense.MEAN, dense.STD

    def model(self) -> nn.Module:
        return self.network()

    def example(self) -> tuple[int, ...]:
        return self.pictures["train"].shape

    def train(self, seed: int) -> Shuffled:
        batch = self.config.finetune.batch
        return Shuffled(len(self.pictures["train"]), batch, seed, self._at)

    def inputs(self) -> list[Tensor]:
        pictures = self.pictures["train"]
        chosen = np.random.default_rng(self.config.seed).permutation(len(pictures))[:512]
        return [pictures.at(rows) for rows in np.array_split(chosen, max(1, len(chosen) // 64))]

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, heat, distances, there = batch
        found = model(x).float()
        return _focal(found[:, : self.kinds], heat) + _box_loss(found, distances, there)

    def distill(self, student: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
        """The teacher's maps: centres as probabilities, boxes where it sees centres."""
        x = batch[0]
        with torch.no_grad():
            target = teacher(x).float()
        ours, sure = student(x).float(), target[:, : self.kinds].sigmoid()
        centres = F.binary_cross_entropy_with_logits(ours[:, : self.kinds], sure, reduction="sum")
        weight = sure.amax(1, keepdim=True)
        boxes = ((ours[:, self.kinds :] - target[:, self.kinds :]).abs() * weight).sum()
        return (centres + boxes) / weight.sum().clamp_min(1)

    def evaluate(self, model: nn.Module, split: str) -> float:
        part, pictures = self.splits[split], self.pictures[split]
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        found: list[Found] = []
        for rows in np.array_split(np.arange(len(pictures)), max(1, len(pictures) // 64)):
            found += decode(model(pictures.at(rows).to(device)), self.kinds)
        there = [kinds >= 0 for kinds in part.kinds]
        boxes = [own[mask].astype(np.float64) for own, mask in zip(part.boxes, there, strict=True)]
        kinds = [own[mask] for own, mask in zip(part.kinds, there, strict=True)]
        return mean_average_precision(found, boxes, kinds)

    def _at(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, ...]:
        part = self.splits["train"]
        targets = [encode(part.boxes[i], part.kinds[i], self.kinds) for i in rows]
        heat, distances, there = (
            torch.from_numpy(np.stack(each)) for each in zip(*targets, strict=True)
        )
        return self.pictures["train"].at(rows), heat, distances, there


def encode(
    boxes: np.ndarray, kinds: np.ndarray, count: int, side: int = dense.SIDE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets of one image: bumps float32 [kinds, S, S], log distances [4, S, S], where [S, S]."""
    cells = side // STEP
    heat = np.zeros((count, cells, cells), dtype=np.float32)
    distances = np.zeros((4, cells, cells), dtype=np.float32)
    there = np.zeros((cells, cells), dtype=np.float32)
    grid = np.arange(cells)
    for (left, top, right, bottom), kind in zip(boxes / STEP, kinds, strict=True):
        if kind < 0:
            continue
        x, y = int((left + right) / 2), int((top + bottom) / 2)
        spread = max(RADIUS * min(right - left, bottom - top) / 2, 0.3)
        bump = np.exp(-((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2) / (2 * spread**2))
        heat[kind] = np.maximum(heat[kind], bump)
        ends = np.array([x + 0.5 - left, y + 0.5 - top, right - x - 0.5, bottom - y - 0.5])
        distances[:, y, x] = np.log(np.maximum(ends, 0.1))
        there[y, x] = 1
    return heat, distances, there


def decode(output: Tensor, kinds: int) -> list[Found]:
    """Boxes of each image: places that are surer than those around them."""
    heat = output[:, :kinds].float().sigmoid()
    peaks = heat * (F.max_pool2d(heat, 3, 1, 1) == heat)
    scores, index = peaks.flatten(1).topk(min(MOST, peaks[0].numel()))
    width, cells = output.shape[-1], output.shape[-2] * output.shape[-1]
    place = index % cells
    ends = output[:, kinds:].float().flatten(2).gather(2, place[:, None].expand(-1, 4, -1)).exp()
    x, y = place % width + 0.5, place // width + 0.5
    boxes = STEP * torch.stack([x - ends[:, 0], y - ends[:, 1], x + ends[:, 2], y + ends[:, 3]], -1)
    numbers = (boxes.double(), index // cells, scores.double())
    parts = zip(*(each.cpu().numpy() for each in numbers), strict=True)
    return [Found(*part) for part in parts]


def _focal(logits: Tensor, heat: Tensor) -> Tensor:
    """CornerNet's focal loss (Law and Deng, 2018), a mean over the centres."""
    sure = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    centre = heat >= 1
    right = (1 - sure) ** 2 * sure.log() * centre
    wrong = (1 - heat) ** 4 * sure**2 * (1 - sure).log() * ~centre
    return -(right.sum() + wrong.sum()) / centre.sum().clamp_min(1)


def _box_loss(found: Tensor, distances: Tensor, there: Tensor) -> Tensor:
    off = (found[:, -4:] - distances).abs().sum(1) * there
    return off.sum() / there.sum().clamp_min(1)
