"""Scenes: scikit-learn's handwritten digits on canvases of 64 pixels, with masks and boxes.

A real little data set without a download: some hundred people's handwriting, at several sizes and
places, over clutter. The digits of the three splits are different ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from search.data.spec import stratified

SIDE = 64
KINDS = 10
MOST = 4  # digits in a scene
SIZES = (14, 24)  # pixels of a digit's side
INK = 64  # of 255: what is darker belongs to the background
COUNTS = {"train": 1200, "val": 240, "test": 240}
SPLITS = ("train", "val", "test")
MEAN, STD = (0.118,), (0.17,)  # of the training pixels
TRIES = 8  # places tried for a digit that would cover another


@dataclass(frozen=True)
class Scenes:
    """One split.

    images: uint8 [N, 1, 64, 64]; masks: uint8 [N, 64, 64], 0 where no ink is, else the digit + 1;
    boxes: float32 [N, 4, 4] as left, top, right, bottom in pixels; kinds: int64 [N, 4], the digit
    of each box, -1 where there is none.
    """

    images: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray


@cache
def scenes(split: str, count: int | None = None) -> Scenes:
    """The scenes of train, val or test; the same each time. Takes about a second."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = digits.images * (255 / 16)
    held = stratified(digits.target, 0.2, seed=0)
    tuned = stratified(digits.target, 0.2, seed=1) & ~held
    rows = {"test": held, "val": tuned, "train": ~held & ~tuned}[split]
    source, names = pixels[rows], digits.target[rows]
    rng = np.random.default_rng([*split.encode()])
    made = [_scene(source, names, rng) for _ in range(COUNTS[split] if count is None else count)]
    images, masks, boxes, kinds = (np.stack(part) for part in zip(*made, strict=True))
    return Scenes(images[:, None], masks, boxes, kinds)


def _scene(
    source: np.ndarray, names: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    canvas = _clutter(rng)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    boxes = np.zeros((MOST, 4), dtype=np.float32)
    kinds = np.full(MOST, -1, dtype=np.int64)
    for slot in range(int(rng.integers(1, MOST + 1))):
        which, side = int(rng.integers(len(source))), int(rng.integers(*SIZES))
        digit = _enlarged(source[which], side)
        ink = digit >= INK
        ys, xs = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        for _ in range(TRIES):
            top, left = rng.integers(0, SIDE - side + 1, 2)
            window = (slice(top, top + side), slice(left, left + side))
            if not mask[window][ink].any():
                break
        else:
            continue
        contrast = rng.uniform(0.6, 1.0)
        canvas[window] = np.maximum(canvas[window], contrast * digit)
        mask[window][ink] = names[which] + 1
        boxes[slot] = left + xs[0], top + ys[0], left + xs[-1] + 1, top + ys[-1] + 1
        kinds[slot] = names[which]
    return canvas.clip(0, 255).astype(np.uint8), mask, boxes, kinds


def _clutter(rng: np.random.Generator) -> np.ndarray:
    """Noise and a few faint strokes."""
    canvas = rng.uniform(0, 40, (SIDE, SIDE))
    for _ in range(3):
        at, length = int(rng.integers(SIDE)), int(rng.integers(8, 32))
        begin = int(rng.integers(SIDE - length))
        stroke = canvas[at, begin:] if rng.random() < 0.5 else canvas[begin:, at]
        stroke[:length] += 70
    return canvas


def _enlarged(digit: np.ndarray, side: int) -> np.ndarray:
    """A digit of 8 x 8 pixels at another size, bilinear."""
    at = (np.arange(side) + 0.5) * len(digit) / side - 0.5
    low = np.clip(np.floor(at).astype(int), 0, len(digit) - 2)
    part = np.clip(at - low, 0, 1)
    rows = digit[low] * (1 - part)[:, None] + digit[low + 1] * part[:, None]
    wide: np.ndarray = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return wide
