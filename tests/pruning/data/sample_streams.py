"""Small photographs, and what streams of them give."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pruning.data.streams import StreamSet

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth, as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(stream: StreamSet, seed: int = 0, size: int = 24) -> list[tuple[Tensor, Tensor]]:
    batches = stream.batches(
        size, shuffle=True, augment="auto", generator=generator(seed), drop_last=True
    )
    return list(batches)


def same(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, x2) and torch.equal(y, y2) for (x, y), (x2, y2) in zip(a, b, strict=True)
    )
