"""Labelled images on a device, handed out in normalised, augmented, channels-last batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pruning.errors import UserError

Batch = tuple[Tensor, Tensor]
"""x: float32 [B, C, H, W], normalised, channels-last; y: int64 [B]."""


class Augment(NamedTuple):
    pad: int  # pixels: a random shift of up to this many in each direction, black moves in
    flip: bool  # mirror every second image, drawn at random


AUGMENTS = {
    "none": Augment(0, False),
    "flip": Augment(0, True),
    "crop-flip": Augment(4, True),
    "shift": Augment(1, False),
}
"""What the names mean for an `ImageSet`. A `StreamSet` takes other crops."""


class Batches(Protocol):
    """Batches that can be gone through again; every pass draws anew from the generator."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


class Images(Protocol):
    """What fine-tuning and scoring need of a set; `ImageSet` and `streaming.StreamSet` are it."""

    @property
    def classes(self) -> int: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def device(self) -> torch.device: ...
    def __len__(self) -> int: ...
    def to(self, device: torch.device | str) -> Images: ...
    def subset(self, index: Index) -> Images: ...
    def batches(
        self,
        size: int,
        *,
        shuffle: bool = False,
        augment: str = "none",
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Batches: ...


Index = Tensor | np.ndarray | slice | Sequence[int]


@dataclass(frozen=True)
class ImageSet:
    """A set that lives on one device.

    images: [N, C, H, W], kept channels-last: uint8, normalised on the way out, or float32 that is
    normalised already; labels: int64 [N], same device. mean, std: per channel, of pixels scaled to
    0..1. augment: what "auto" stands for.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    augment: str = "none"

    def __post_init__(self) -> None:
        if self.images.dtype not in (torch.uint8, torch.float32) or self.images.ndim != 4:
            raise UserError(
                f"images are {self.images.dtype} {list(self.images.shape)}; "
                "pass uint8 or float32 [N, C, H, W]"
            )
        channels = self.images.shape[1]
        if not len(self.mean) == len(self.std) == channels:
            raise UserError(
                f"{len(self.mean)} means and {len(self.std)} deviations for {channels} channels; "
                "give one of each per channel"
            )
        if not all(math.isfinite(x) for x in self.mean) or not all(
            0 < x < math.inf for x in self.std
        ):
            raise UserError(f"mean {self.mean}, std {self.std}: deviations are above 0")
        if self.labels.shape != self.images.shape[:1]:
            raise UserError(f"{len(self.images)} images but {len(self.labels)} labels")
        augmentation(self.augment)
        resident = self.images.contiguous(memory_format=torch.channels_last)
        object.__setattr__(self, "images", resident)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> ImageSet:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, index: Index) -> ImageSet:
        """The images at `index`, in its order; a slice shares memory, anything else copies."""
        pixels = self.images.permute(0, 2, 3, 1)
        if isinstance(index, slice):
            return replace(
                self, images=pixels[index].permute(0, 3, 1, 2), labels=self.labels[index]
            )
        rows = torch.as_tensor(index, dtype=torch.int64, device=self.device)
        return replace(
            self,
            images=pixels.index_select(0, rows).permute(0, 3, 1, 2),
            labels=self.labels.index_select(0, rows),
        )

    def batches(
        self,
        size: int,
        *,
        shuffle: bool = False,
        augment: str = "none",
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """Batches of `size` images. The generator must be on this set's device (None: torch's).

        augment: "none", "flip", "crop-flip", "shift" or "auto" (the set's own default).
        """
        kind = augmentation(self.augment if augment == "auto" else augment)
        return _ResidentBatches(self, size, shuffle, kind, generator, drop_last)


@dataclass(frozen=True)
class _ResidentBatches:
    source: ImageSet
    size: int
    shuffle: bool
    augment: Augment
    generator: torch.Generator | None
    drop_last: bool

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"batch size {self.size}; it must be at least 1")

    def __len__(self) -> int:
        full, rest = divmod(len(self.source), self.size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """A pass; all its random numbers are drawn at once, so batches cost few kernels."""
        source, (pad, flip) = self.source, self.augment
        count, device = len(source), source.device
        draw: dict[str, Any] = {"generator": self.generator, "device": device}
        order = torch.randperm(count, **draw) if self.shuffle else torch.arange(count).to(device)
        moves = torch.randint(-pad, pad + 1, (2, count), **draw) if pad else None
        mirror = torch.randint(2, (count,), **draw).bool() if flip else None
        scale, shift = normalisation(source.mean, source.std, device)
        pixels = source.images.permute(0, 2, 3, 1)
        for b in range(len(self)):
            part = slice(b * self.size, (b + 1) * self.size)
            index = order[part]
            if moves is None and mirror is None:
                x = pixels.index_select(0, index)
            else:
                x = _pick(
                    pixels,
                    index,
                    None if moves is None else moves[:, part],
                    None if mirror is None else mirror[part],
                )
            if x.dtype == torch.uint8:
                x = x.to(torch.float32).mul_(scale).add_(shift)
            yield x.permute(0, 3, 1, 2), source.labels.index_select(0, index)


def _pick(pixels: Tensor, index: Tensor, moves: Tensor | None, mirror: Tensor | None) -> Tensor:
    """Images shifted and mirrored, each by its own draw, black where they end.

    pixels: [N, H, W, C]; index: int64 [B]; moves: int64 [2, B] (down, right) in pixels;
    mirror: bool [B]. Returns [B, H, W, C], read straight from the resident set.
    """
    _, height, width, channels = pixels.shape
    rows = torch.arange(height, device=pixels.device).expand(len(index), -1)
    cols = torch.arange(width, device=pixels.device).expand(len(index), -1)
    if mirror is not None:
        cols = torch.where(mirror[:, None], width - 1 - cols, cols)
    if moves is not None:
        rows, cols = rows + moves[0][:, None], cols + moves[1][:, None]
    source_rows = index[:, None] * height + rows.clamp(0, height - 1)
    source = source_rows[:, :, None] * width + cols.clamp(0, width - 1)[:, None, :]
    out = pixels.reshape(-1, channels).index_select(0, source.flatten())
    out = out.view(len(index), height, width, channels)
    if moves is None:
        return out
    seen_rows, seen_cols = (rows >= 0) & (rows < height), (cols >= 0) & (cols < width)
    return out * (seen_rows[:, :, None] & seen_cols[:, None, :])[..., None]


def normalisation(
    mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """float32 [C] a, b with a·pixel + b = (pixel/255 − mean)/std for pixels in 0..255."""
    deviation = torch.tensor(std, dtype=torch.float64)
    scale = 1 / (255 * deviation)
    shift = -torch.tensor(mean, dtype=torch.float64) / deviation
    return scale.float().to(device), shift.float().to(device)


def augmentation(name: str) -> Augment:
    """The augmentation of that name; UserError where there is none."""
    if name not in AUGMENTS:
        raise UserError(f"unknown augmentation '{name}'; use one of {', '.join(AUGMENTS)}")
    return AUGMENTS[name]
