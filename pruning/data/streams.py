"""Image files streamed to the device: for sets that are too large to live there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pruning.data.images import Augment, Batch, Batches, Index, augmentation, normalisation

if TYPE_CHECKING:
    from torchvision.transforms import v2


@dataclass(frozen=True)
class StreamSet:
    """A set too large for the device: image files, decoded by worker processes on the way.

    files: str [N]; labels: int64 [N] on the CPU; size: side of the square input in pixels.
    Unaugmented images are resized (see `shorter_side`) and centre-cropped. "crop-flip" takes
    random resized crops and mirrors, "flip" mirrors the centre crop. workers: processes per pass.
    """

    files: np.ndarray
    labels: Tensor
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    augment: str = "crop-flip"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = min(16, len(os.sched_getaffinity(0)))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def to(self, device: torch.device | str) -> StreamSet:
        return replace(self, device=torch.device(device))

    def subset(self, index: Index) -> StreamSet:
        rows = index if isinstance(index, slice) else np.asarray(index)
        return replace(self, files=self.files[rows], labels=self.labels[rows])

    def batches(
        self,
        size: int,
        *,
        shuffle: bool = False,
        augment: str = "none",
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """As `ImageSet.batches`; deterministic for a given generator and number of workers."""
        kind = augmentation(self.augment if augment == "auto" else augment)
        if generator is not None:  # the loader draws on the CPU, whatever the device
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            generator = torch.Generator().manual_seed(int(seed))
        loader: DataLoader[Batch] = DataLoader(
            _Files(self, _transform(self.size, kind)),
            batch_size=size,
            shuffle=shuffle,
            drop_last=drop_last,
            generator=generator,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
        )
        return _StreamBatches(self, loader)


def shorter_side(size: int) -> int:
    """Pixels to which an image's shorter side is resized before its centre crop to `size`.

    The 256/224 of ImageNet evaluation for large inputs; small ones keep all they have.
    """
    return round(size * 256 / 224) if size >= 128 else size


@dataclass(frozen=True)
class _StreamBatches:
    source: StreamSet
    loader: DataLoader[Batch]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        device = self.source.device
        scale, shift = normalisation(self.source.mean, self.source.std, device)
        for images, labels in self.loader:
            pixels = images.to(device, non_blocking=True).permute(0, 2, 3, 1).contiguous()
            x = pixels.to(torch.float32).mul_(scale).add_(shift).permute(0, 3, 1, 2)
            yield x, labels.to(device, non_blocking=True)


class _Files(Dataset[Batch]):
    """Decodes one file at a time, inside a worker process."""

    def __init__(self, source: StreamSet, transform: v2.Compose) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Batch:
        with Image.open(str(self.source.files[index])) as image:
            return self.transform(image.convert("RGB")), self.source.labels[index]


def _transform(size: int, augment: Augment) -> v2.Compose:
    from torchvision.transforms import v2  # takes a second, and most sets are not streamed

    if augment.pad:
        crop: list[Any] = [v2.RandomResizedCrop(size)]
    else:
        crop = [v2.Resize(shorter_side(size)), v2.CenterCrop(size)]
    flip = [v2.RandomHorizontalFlip()] if augment.flip else []
    return v2.Compose([*crop, *flip, v2.PILToTensor()])
