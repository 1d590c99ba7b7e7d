"""Semantic segmentation: a class for every pixel, cross-entropy, mean intersection over union."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import UserError
from search.config import Config
from search.data import dense, spec
from search.pareto import Metric
from search.tasks.pictures import Pictures, Shuffled, built

IGNORED = 255  # in masks: pixels that count neither in the loss nor in the score
TEMPERATURE = 4.0


@dataclass(frozen=True)
class Maps:
    """One split. pictures: the images; masks: uint8 [N, H, W]."""

    pictures: Pictures
    masks: Tensor


class Segmentation:
    """A network of logits [N, classes, H, W], or a dictionary with them under "out"; a `Task`.

    Outputs of another size than the masks are resized to it, as torchvision's recipes do. Its
    network is trained first where no weights are named.
    """

    trained = False

    def __init__(
        self, config: Config, network: nn.Module | None, splits: dict[str, Maps], classes: int
    ) -> None:
        self.config, self.splits, self.classes = config, splits, classes
        self.network, self.origin = built(config, network, splits["train"].pictures, classes)
        counts = torch.bincount(splits["val"].masks.flatten().int(), minlength=256)[:classes]
        most = float(counts.max()) / max(float(counts.sum()), 1.0)
        self.metric = Metric("mIoU", "%", "max", chance=most / max(1, int((counts > 0).sum())))
        pictures = splits["train"].pictures
        self.mean, self.std = pictures.mean, pictures.std

    def model(self) -> nn.Module:
        return self.network()

    def example(self) -> tuple[int, ...]:
        return self.splits["train"].pictures.shape

    def train(self, seed: int) -> Shuffled:
        return Shuffled(len(self.splits["train"].masks), self.config.finetune.batch, seed, self._at)

    def inputs(self) -> list[Tensor]:
        pictures = self.splits["train"].pictures
        chosen = np.random.default_rng(self.config.seed).permutation(len(pictures))[:512]
        return [pictures.at(rows) for rows in np.array_split(chosen, max(1, len(chosen) // 64))]

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, mask = batch
        found = model(x)
        loss = _cross_entropy(_maps(found, mask.shape[-2:]), mask)
        if isinstance(found, dict) and "aux" in found and model.training:
            loss = loss + 0.5 * _cross_entropy(_sized(found["aux"], mask.shape[-2:]), mask)
        return loss

    def distill(self, student: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
        """The teacher's map, pixel by pixel, softened."""
        x, _ = batch
        with torch.no_grad():
            target = F.log_softmax(_maps(teacher(x)).float() / TEMPERATURE, 1)
        ours = F.log_softmax(_maps(student(x)).float() / TEMPERATURE, 1)
        divergence = F.kl_div(ours, target, reduction="none", log_target=True).sum(1)
        return TEMPERATURE**2 * divergence.mean()

    def evaluate(self, model: nn.Module, split: str) -> float:
        """Mean over the classes that there are of intersection over union, all images at once."""
        part = self.splits[split]
        confusion = torch.zeros(self.classes, self.classes, dtype=torch.int64)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        for rows in np.array_split(np.arange(len(part.masks)), max(1, len(part.masks) // 64)):
            mask = part.masks[rows].to(device).long()
            found = _maps(model(part.pictures.at(rows).to(device)), mask.shape[-2:]).argmax(1)
            counted = mask < self.classes
            pairs = mask[counted] * self.classes + found[counted]
            confusion += torch.bincount(pairs, minlength=self.classes**2).view_as(confusion).cpu()
        return mean_iou(confusion)

    def _at(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        part = self.splits["train"]
        x, mask = part.pictures.at(rows), part.masks[rows].long()
        if self.config.finetune.augment in FLIPPING and rng.random() < 0.5:
            return x.flip(-1), mask.flip(-1)
        return x, mask


def of_files(config: Config, network: nn.Module | None = None) -> Segmentation:
    """Images and masks of the user's own, as `data` names them."""
    known = spec.kind(config.data)
    found = dense.load(config.data, config.seed)
    mean, std = config.data.mean or known.mean, config.data.std or known.std
    splits = {
        name: Maps(Pictures(torch.from_numpy(part.images), mean, std), torch.from_numpy(part.masks))
        for name, part in found.items()
    }
    return Segmentation(config, network, splits, dense.classes_of(found))


FLIPPING = ("flip", "crop-flip")


def mean_iou(confusion: Tensor) -> float:
    """Mean intersection over union of a confusion matrix int64 [true, found]."""
    right = confusion.diag().double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    there = confusion.sum(1) > 0
    if not bool(there.any()):
        raise UserError("no pixel of any class in the masks; check data.root")
    return float((right[there] / union[there].clamp_min(1)).mean())


def _cross_entropy(maps: Tensor, mask: Tensor) -> Tensor:
    return F.cross_entropy(maps.float(), mask, ignore_index=IGNORED)


def _maps(found: Any, size: Any = None) -> Tensor:
    """Logits [N, classes, H, W] of what the network gave."""
    maps = found["out"] if isinstance(found, dict) else found
    return maps if size is None else _sized(maps, size)


def _sized(maps: Tensor, size: Any) -> Tensor:
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
