"""Data sets by name: train, validation (held out of train) and test, ready on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.data import Images
from pruning.errors import UserError
from search.data import image_size, sources
from search.data.cache import Source
from search.data.spec import DataConfig, kind, rule


@dataclass(frozen=True)
class Splits:
    """Three disjoint sets; no image of val is in train. notes: what was chosen for the user."""

    train: Images
    val: Images
    test: Images
    notes: tuple[str, ...] = ()


def load(config: DataConfig, seed: int = 0, device: Any = "cpu") -> Splits:
    """The splits of a data set on a device; `seed` draws val. UserError where something is amiss.

    Decoded images are cached (see search.data.sources), so only the first load of a set is slow.
    """
    known = kind(config)
    size, looked_up = image_size.of(config)
    held_out = rule(config.val)
    reader = sources.source(config, size)
    for split in filter(None, ("train", "test", held_out.split)):
        reader.require(split)  # before an hour of decoding another
    train, test = reader.read("train"), reader.read("test")
    if held_out.split:
        val, rows = reader.read(held_out.split), None
    else:
        val, rows = train, held_out.rows(train.labels, seed)
    classes = known.classes or train.classes
    if classes < 2:
        raise UserError(
            f"all images in {config.root or config.name} are of one class; a classifier needs two"
        )
    for name, part in (("train", train), ("val", val), ("test", test)):
        _check(name, part.labels, classes, config)

    def images(part: Source) -> Images:
        return sources.images(part, config, known, classes)

    whole = images(train)
    kept, held = (whole, images(val)) if rows is None else _divide(whole, rows)
    notes = (looked_up,) if looked_up else ()
    return Splits(kept.to(device), held.to(device), images(test).to(device), notes)


def hold_out(images: Images, val: str, seed: int) -> tuple[Images, Images]:
    """What stays of a set, and what `val` ("0.1", "last:5000") holds out of it."""
    held_out = rule(val)
    if held_out.split:
        raise UserError(f"data.val {val}: images that are handed in have no splits by name")
    return _divide(images, held_out.rows(images.labels.cpu().numpy(), seed))


def _divide(images: Images, held: np.ndarray) -> tuple[Images, Images]:
    rest, part = (images.subset(_compact(np.flatnonzero(rows))) for rows in (~held, held))
    return rest, part


def _check(name: str, labels: np.ndarray, classes: int, config: DataConfig) -> None:
    place = config.root or config.name
    if not len(labels):
        raise UserError(f"the {name} split in {place} has no images; check data.root")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"label {low if low < 0 else high} in the {name} split of {place} is outside "
            f"0 to {classes - 1}; check data.name, or choose a split with labels"
        )


def _compact(rows: np.ndarray) -> slice | np.ndarray:
    """A run of rows as a slice, which shares memory."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    return slice(first, last) if last - first == len(rows) else rows
