"""Which part of an image becomes a network's input: torchvision's crops, as numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

ATTEMPTS = 10  # of a random crop to fit into its image, as in torchvision
DRAWS = 4 * ATTEMPTS + 1
"""Numbers from 0 to 1 that one image takes: area, ratio, top, left an attempt; then the mirror."""
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def shorter_side(size: int) -> int:
    """Pixels to which an image's shorter side is resized before its centre crop to `size`.

    The 256/224 of ImageNet evaluation for large inputs; small ones keep all they have.
    """
    return round(size * 256 / 224) if size >= 128 else size


def resized(height: int, width: int, short: int) -> tuple[int, int]:
    """(height, width) once the shorter side is `short`, as torchvision's Resize rounds."""
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def centre(height: int, width: int, size: int) -> Box:
    """The middle `size` pixels each way of an image that is at least as large."""
    return Box(round((height - size) / 2.0), round((width - size) / 2.0), size, size)


def random_resized(height: int, width: int, draws: np.ndarray) -> Box:
    """The part that torchvision's RandomResizedCrop may take (scale 0.08-1, ratio 3/4-4/3).

    draws: float64 [DRAWS] from 0 to 1, the same ones always give the same part.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for a in range(ATTEMPTS):
        area, ratio, down, right = draws[4 * a : 4 * a + 4]
        target = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
        aspect = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(down * (height - h + 1)), int(right * (width - w + 1)), h, w)
    within = width / height
    if within < RATIO[0]:
        w, h = width, round(width / RATIO[0])
    elif within > RATIO[1]:
        w, h = round(height * RATIO[1]), height
    else:
        w, h = width, height
    return Box((height - h) // 2, (width - w) // 2, h, w)
