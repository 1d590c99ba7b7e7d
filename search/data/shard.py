"""A shard of a packed set: small JPEGs and labels, written whole, and checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pruning.data import Broken, BrokenImageError, Encoded, Storage, cores, shrunk, windows
from pruning.errors import UserError
from search.data.parquet import opened

ROW_GROUP = 64  # images: a stream shuffles whole row groups
SKIPPED = b"slimfront_skipped"  # in a shard's metadata: positions in its range that are broken
READERS = 16
Report = Callable[[str, int], None]
"""Told the split and how many of its images were done since the last call."""


@dataclass(frozen=True)
class Settings:
    """size: of the shorter side, in pixels, at most; quality: of the JPEGs; shard_mb: about."""

    size: int = 256
    quality: int = 90
    shard_mb: int = 256


@dataclass(frozen=True)
class Split:
    """A split of the source. order: int64 [N], its rows as they are packed; bounds: of shards."""

    name: str
    storage: Storage
    labels: np.ndarray
    order: np.ndarray
    bounds: tuple[int, ...] = ()

    def shard(self, index: int) -> str:
        return f"{self.name}-{index:05}-of-{len(self.bounds) - 1:05}.parquet"


def write(
    store: fs.FileSystem,
    place: str,
    split: Split,
    rows: np.ndarray,
    classes: list[str],
    settings: Settings,
    broken: Broken,
    report: Report,
) -> None:
    """A shard, which appears whole or not at all."""
    local = isinstance(store, fs.LocalFileSystem)
    part = f"{place}.part" if local else place
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())], _features(classes))
    skipped: list[int] = []
    done: list[tuple[int, bytes]] = []
    try:
        with (
            store.open_output_stream(part) as stream,
            pq.ParquetWriter(stream, schema, compression="none", use_dictionary=False) as writer,
        ):

            def flush(least: int) -> None:
                while len(done) >= least and done:
                    group = [done.pop(0) for _ in range(min(ROW_GROUP, len(done)))]
                    images = [{"bytes": data, "path": None} for _, data in group]
                    labels = [int(split.labels[rows[i]]) for i, _ in group]
                    writer.write_table(pa.table([pa.array(images, image), labels], schema))

            for position, data in _encoded(split.storage, rows, settings, broken):
                if data is None:
                    skipped.append(position)
                else:
                    done.append((position, data))
                report(split.name, 1)
                flush(ROW_GROUP)
            flush(1)
            writer.add_key_value_metadata({SKIPPED: json.dumps(skipped).encode()})
        if local:
            store.move(part, place)
    except OSError as error:
        line = str(error).strip().split("\n")[0]
        raise UserError(f"cannot write {place} ({line}); check the disk or network") from error


def _encoded(
    storage: Storage, rows: np.ndarray, settings: Settings, broken: Broken
) -> Iterator[tuple[int, bytes | None]]:
    """(position in rows, JPEG or None for a broken image) in order; reads one window ahead."""

    def encode(row: int, data: Encoded) -> bytes | None:
        try:
            return shrunk(data, settings.size, settings.quality)
        except BrokenImageError as error:
            broken.add(storage.place(row), str(error))
            return None

    plan = windows(storage, rows, 0, 0, shuffle=False)
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(cores()) as pool:

        def load(w: int) -> dict[int, Future]:
            units = plan[w].units.tolist() if w < len(plan) else []
            return {unit: readers.submit(storage.load, unit) for unit in units}

        ahead = load(0)
        for w, window in enumerate(plan):
            loads, ahead = ahead, load(w + 1)
            found = {unit: future.result() for unit, future in loads.items()}
            mine = rows[window.positions].tolist()
            pieces = [found[int(storage.unit_of[r])][int(storage.offset_of[r])] for r in mine]
            yield from zip(window.positions.tolist(), pool.map(encode, mine, pieces), strict=True)


def whole(store: fs.FileSystem, place: str, labels: np.ndarray) -> bool:
    """Whether a shard is there and holds these images' labels, but for those it skipped."""
    if store.get_file_info(place).type != fs.FileType.File:
        return False
    try:
        return np.array_equal(*_labels(store, place, labels))
    except UserError:
        return False


def _labels(store: fs.FileSystem, place: str, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels in a shard, and those that it should have."""
    file = opened(store, place)
    skipped = json.loads((file.metadata.metadata or {}).get(SKIPPED, b"[]"))
    return file.read(["label"]).column(0).to_numpy(), np.delete(labels, skipped)


def verified(store: fs.FileSystem, path: str, split: Split) -> tuple[int, int]:
    """(images, bytes) of a packed split, read back. UserError where it is not what was packed."""
    images = size = 0
    for index, (start, stop) in enumerate(pairwise(split.bounds)):
        place = f"{path}/{split.shard(index)}"
        there, wanted = _labels(store, place, split.labels[split.order[start:stop]])
        if not np.array_equal(there, wanted):
            raise UserError(f"{place} does not hold what was packed; remove it and pack again")
        images += len(there)
        size += store.get_file_info(place).size
    return images, size


def _features(classes: list[str]) -> dict[bytes, bytes]:
    label = {"names": classes, "_type": "ClassLabel"} if classes else {"dtype": "int64"}
    features = {"image": {"_type": "Image"}, "label": {"_type": "Value"} | label}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
