"""A data set encoded once more, small: what training reads is then a third of the work.

Shorter sides of 256 pixels, JPEG, in Parquet shards whose row groups are small enough to shuffle.
Each shard holds a fixed range of the source's images, so that packing goes on where it ended.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
from pyarrow import fs

from pruning.data import Broken, BrokenImageError, shrunk
from pruning.errors import UserError
from pruning.models import files as uri
from search.data.cache import TEST_NAMES
from search.data.folders import Folders
from search.data.parquet import Parquet
from search.data.shard import ROW_GROUP, Report, Settings, Split, verified, whole, write
from search.data.spec import DataConfig

PLAN = "_pack.json"  # readers of Parquet folders pass over names that begin so
FORMAT = 1
SAMPLE = 256  # images that tell how many fit into a shard
SAMPLE_BYTES = 64 << 20  # to be read for them, at most


@dataclass(frozen=True)
class Packed:
    """images, broken: how many were packed and left out; bytes: of the shards; shards: number."""

    images: int
    broken: dict[str, str]
    bytes: int
    shards: int


def pack(
    source: str,
    target: str,
    settings: Settings,
    report: Report,
    begin: Callable[[str, int], None],
) -> Packed:
    """Pack all splits of a folder or Parquet set, local or not, into Parquet shards at `target`.

    begin: told each split and its size. Shards that are there already are checked and left.
    UserError where the source cannot be read, or the target holds something else.
    """
    _check(settings)
    found, classes = _splits(source)
    store, path = uri.filesystem(target)
    splits = _planned(store, path, target, found, classes, settings)
    broken = Broken()
    for split in splits:
        begin(split.name, len(split.order))
        for index, (start, stop) in enumerate(pairwise(split.bounds)):
            place = f"{path}/{split.shard(index)}"
            rows = split.order[start:stop]
            if not whole(store, place, split.labels[rows]):
                write(store, place, split, rows, classes, settings, broken, report)
            else:
                report(split.name, len(rows))
    sizes = [verified(store, path, split) for split in splits]
    images, size = (sum(column) for column in zip(*sizes, strict=True))
    return Packed(images, broken.found, size, sum(len(s.bounds) - 1 for s in splits))


def _splits(source: str) -> tuple[list[Split], list[str]]:
    """Every split of the source, and the names of the classes (none if they are not stated)."""
    store, path = uri.filesystem(source)
    if store.get_file_info(path).type == fs.FileType.NotFound:
        raise UserError(f"there is no folder {source}; correct SOURCE")
    parquet = Parquet(store, path, source, 1, DataConfig("parquet", source))
    if parquet.files:
        heads = (re.match(r"[A-Za-z]+", f.base_name) for f in parquet.files)
        found: list[Split] = []
        classes: list[str] = []
        for name in dict.fromkeys(head.group() for head in heads if head):
            storage, labels, classes = parquet.stored(name)
            found.append(Split(name, storage, labels, np.arange(len(labels))))
        return found, classes
    folders = Folders(store, path, source, 1, DataConfig("folder", source))
    there = {
        posixpath.basename(f.path)
        for f in store.get_file_info(fs.FileSelector(path))
        if f.type == fs.FileType.Directory
    }
    found = []
    for name in ("train", *TEST_NAMES):
        if name in there:
            files, labels = folders.stored(name)
            # class by class, as folders are read, would leave too few classes in a batch
            order = np.random.default_rng(0).permutation(len(labels))
            found.append(Split(name, files, labels, order))
    if "train" not in there:
        raise UserError(f"{source} has neither Parquet files nor a folder train; correct SOURCE")
    return found, folders.names


def _planned(
    store: fs.FileSystem,
    path: str,
    target: str,
    found: list[Split],
    classes: list[str],
    settings: Settings,
) -> list[Split]:
    """The splits with the bounds of their shards: those of an earlier session, if it was alike."""
    wanted = {
        "format": FORMAT,
        "settings": asdict(settings),
        "splits": {s.name: [s.storage.digest, len(s.order)] for s in found},
    }
    place = f"{path}/{PLAN}"
    if store.get_file_info(place).type == fs.FileType.File:
        plan = json.loads(uri.read(uri.join(target, PLAN)))
        if {key: plan.get(key) for key in wanted} != wanted:
            raise UserError(
                f"{target} holds a pack of another source or of other settings; "
                "choose another TARGET, or remove it"
            )
        counts = plan["images_a_shard"]
    else:
        if any(f.is_file for f in store.get_file_info(
            fs.FileSelector(path, recursive=True, allow_not_found=True)
        )):  # fmt: skip
            raise UserError(f"{target} is not empty; choose an empty folder as TARGET")
        counts = {s.name: _images_a_shard(s, settings) for s in found}
        plan = wanted | {"images_a_shard": counts, "classes": classes}
        uri.write(uri.join(target, PLAN), json.dumps(plan, indent=1).encode())
    return [replace(s, bounds=_bounds(len(s.order), counts[s.name])) for s in found]


def _bounds(count: int, each: int) -> tuple[int, ...]:
    shards = max(1, round(count / each))
    return tuple(int(b) for b in np.linspace(0, count, shards + 1).round())


def _images_a_shard(split: Split, settings: Settings) -> int:
    rows = split.order[np.linspace(0, len(split.order) - 1, SAMPLE).astype(int)]
    units = np.unique(split.storage.unit_of[rows])
    read = np.cumsum(split.storage.unit_bytes[units]) <= SAMPLE_BYTES
    units = units[: max(1, int(read.sum()))]
    sizes = []
    for unit in units.tolist():
        for data in split.storage.load(unit)[: -(-SAMPLE // len(units))]:
            try:
                sizes.append(len(shrunk(data, settings.size, settings.quality)))
            except BrokenImageError:
                continue
    mean = sum(sizes) / len(sizes) if sizes else 1e4
    return max(ROW_GROUP, int(settings.shard_mb * 2**20 / mean))


def _check(settings: Settings) -> None:
    if settings.size < 8:
        raise UserError(f"--size {settings.size}: must be at least 8 pixels")
    if not 1 <= settings.quality <= 100:
        raise UserError(f"--quality {settings.quality}: must be from 1 to 100")
    if settings.shard_mb < 1:
        raise UserError(f"--shard_mb {settings.shard_mb}: must be at least 1")
