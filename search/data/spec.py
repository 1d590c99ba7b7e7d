"""What can be said of a data set before any image is read. Light: the command line reads it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pruning.errors import UserError

DIGITS_BASE: dict[str, Any] = {
    "epochs": 10.0,
    "batch": 64,
    "lr": 0.1,
    "warmup": 0.1,
    "augment": "shift",
}
"""Recipe of the embedded base model: about 98.5 % on the digits' test split, in seconds."""


@dataclass(frozen=True)
class DataConfig:
    """The images: train, val (held out of train; all scoring) and test (the frontier, at the end).

    Args:
        name: digits (embedded), cifar10, cifar100, parquet (train-*.parquet and test-*.parquet with
            encoded images and labels), or folder (train and test or val, a folder for each class).
            A run whose images a Python program handed in has "user" here.
        root: Folder or URI (s3://…) of the images; null only for digits.
        val: What is held out of train: a share drawn class by class (10% or 0.1), the last N images
            ("last:5000"), or a split of its own ("split:NAME").
        image_size: Side of the square images in pixels; null is 8 for digits, 32 for CIFAR, else
            that of the images where all are squares of one size, else 224. Others are resized and
            centre-cropped.
        mean: Mean for each channel, of pixels from 0 to 1; null is the data set's own (ImageNet's
            for parquet and folder).
        std: Standard deviation for each channel, likewise.
        augment: Random changes of training images: none, flip, crop-flip, shift, or auto (the data
            set's usual one).
        download: Fetch CIFAR into root where it is missing (true or false).
        resize: Pixels to which the shorter side is resized before the centre crop of scoring; null
            is image_size * 256 / 224 from 128 pixels on, below image_size.
        interpolation: Of resizing, antialiased: bilinear or bicubic.
        resident_gb: A split that needs more than this, in GB, decoded, is streamed from its files
            in each pass, instead of being kept on the device.
        kept_gb: Of a streamed data set, the images for scoring and measuring are kept decoded in
            $SLIMFRONT_CACHE, where they need less than this, in GB; otherwise decoded each time.
        shared_gb: Disk for decoded training images in $SLIMFRONT_CACHE, in GB, by which the trials
            on a machine decode each image once, not once for each of them; 0 is off.
    """

    name: str = "digits"
    root: str | None = None
    val: str = "0.1"
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str = "auto"
    download: bool = False
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    resident_gb: float = 8.0
    kept_gb: float = 16.0
    shared_gb: float = 4.0


class Kind(NamedTuple):
    """What is known of a data set by its name. classes 0: as many as its labels say."""

    size: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str

    @property
    def outputs(self) -> int:
        """What a network must give for an image."""
        return self.classes


IMAGENET = Kind(224, 0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "crop-flip")
KINDS = {
    "digits": Kind(8, 10, (0.3053,), (0.3761,), "shift"),
    "cifar10": Kind(32, 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "crop-flip"),
    "cifar100": Kind(32, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), "crop-flip"),
    "parquet": IMAGENET,
    "folder": IMAGENET,
}
OWN_FILES = ("parquet", "folder")  # names that say how the user's images lie, not which they are
USER = "user"  # the name of images that a program handed in, see search.data.given


def check(config: DataConfig) -> None:
    """UserError for settings that no images can meet; reads none."""
    from pruning.data import augmentation

    known = None if config.name == USER else kind(config)
    rule(config.val)
    if config.augment != "auto":
        augmentation(config.augment)
    for name, values in (("mean", config.mean), ("std", config.std)):
        if known is not None and values is not None and len(values) != len(known.mean):
            raise UserError(
                f"data.{name} has {len(values)} numbers, {config.name} has {len(known.mean)} "
                "channels; give one for each"
            )
        if not all(math.isfinite(v) and (name == "mean" or v > 0) for v in values or ()):
            raise UserError(
                f"data.{name} {list(values or ())}: must be numbers"
                f"{' above 0' if name == 'std' else ''}, for pixels from 0 to 1"
            )


def kind(config: DataConfig) -> Kind:
    """What is known of the data set. UserError for an unknown name or sizes that cannot be."""
    if config.name == USER:
        raise UserError(
            "the images of this run were handed in by a program; from Python give them again, to "
            "search.run with the same network and the same out"
        )
    if config.name not in KINDS:
        close = difflib.get_close_matches(config.name, KINDS, 3, 0.4) or list(KINDS)
        raise UserError(f"unknown data set '{config.name}'; closest: {', '.join(close)}")
    if config.name != "digits" and not config.root:
        raise UserError(f"data.root is missing; name the folder of the {config.name} images")
    size = config.image_size
    if size is not None and size < 1:
        raise UserError(f"data.image_size {size} must be at least 1 pixel")
    if config.name == "digits" and size not in (None, 8):
        raise UserError(f"digits are 8 pixels wide; leave data.image_size {size} out")
    return KINDS[config.name]


class Rule(NamedTuple):
    """What DataConfig.val says: a further split by name, or which rows of train."""

    split: str | None
    rows: Callable[[np.ndarray, int], np.ndarray]


def rule(val: str) -> Rule:
    """DataConfig.val understood; UserError where it is not."""
    form = "write a share such as 10% (or 0.1), last:5000 or split:NAME"
    head, _, tail = str(val).partition(":")
    if head == "split" and tail:
        return Rule(tail, _no_rows)
    try:
        share, last = (0.0, int(tail)) if head == "last" else (_share(val), 0)
    except ValueError:
        raise UserError(f"data.val {val!r} is not understood; {form}") from None
    if head != "last" and not 0 < share < 1:
        raise UserError(f"data.val {val} must lie between 0 and 1; {form}")
    if head == "last" and last < 1:
        raise UserError(f"data.val {val} holds out no image; {form}")

    def rows(labels: np.ndarray, seed: int) -> np.ndarray:
        if not len(labels):
            raise UserError("data.root holds no image to train on; name a folder that has some")
        chosen = stratified(labels, share, seed) if share else np.zeros(len(labels), dtype=bool)
        if last:
            chosen[-last:] = True
        if chosen.all() or not chosen.any():
            which = "train" if chosen.all() else "val"
            raise UserError(
                f"data.val {val} of {len(labels)} images leaves none for {which}; change data.val"
            )
        return chosen

    return Rule(None, rows)


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool [N]: a random `share` of each class, at least one image where the class has two."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        chosen[rows[:count]] = True
    return chosen


def _share(val: str) -> float:
    text = str(val).strip()
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def _no_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    return np.zeros(len(labels), dtype=bool)
