"""A torch Dataset walked anew in each pass: for one that augments, or is too large for memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from pruning.data.images import Batch, Batches, Index, augmentation, normalisation


@dataclass(frozen=True)
class DatasetSet:
    """A map-style Dataset of (image, label) as an `Images`; its own transforms run.

    dataset: items (uint8 or float32 [C, H, W], int); labels: int64 [N] on the CPU. uint8 is
    normalised by mean and std, of pixels from 0 to 1; floats are handed out as they are. An
    augmentation beside the dataset's own is not possible: the name is checked and left out.
    workers: processes for each pass.
    """

    dataset: Dataset[Any]
    labels: Tensor
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    workers: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> DatasetSet:
        return replace(self, device=torch.device(device))

    def subset(self, index: Index) -> DatasetSet:
        rows = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        part = Subset(self.dataset, rows.tolist())
        return replace(self, dataset=part, labels=self.labels[torch.from_numpy(rows)])

    def batches(
        self,
        size: int,
        *,
        shuffle: bool = False,
        augment: str = "none",
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """As `ImageSet.batches`; the generator draws the order, not what the transforms draw."""
        if augment != "auto":
            augmentation(augment)
        if generator is not None:  # the loader draws on the CPU, whatever the device
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            generator = torch.Generator().manual_seed(int(seed))
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_size=size,
            shuffle=shuffle,
            drop_last=drop_last,
            generator=generator,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
        )
        return _Walk(self, loader)


@dataclass(frozen=True)
class _Walk:
    source: DatasetSet
    loader: DataLoader[Any]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        device = self.source.device
        scale, shift = normalisation(self.source.mean, self.source.std, device)
        for images, labels in self.loader:
            x = images.to(device, non_blocking=True)
            if x.dtype == torch.uint8:
                x = x.to(torch.float32).mul_(scale[:, None, None]).add_(shift[:, None, None])
            x = x.contiguous(memory_format=torch.channels_last)
            yield x, labels.to(device, torch.int64, non_blocking=True)
