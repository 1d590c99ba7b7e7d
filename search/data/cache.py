"""A split as its kind of data set reads it, and decoded pixels kept as memory-mapped .npy files.

They lie below $SLIMFRONT_CACHE (default ~/.cache/slimfront), in a folder whose name depends on the
source's files and the size; it appears at once, whole, so any number of processes may load at the
same time, and only the first load of a set is slow.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from pruning.data import BrokenImageError, Storage, cores, decode, fit, shorter_side
from pruning.errors import UserError
from search.data.spec import DataConfig

TEST_NAMES = ("test", "validation", "valid", "val")
"""Splits that serve as test, the first that exists."""


@dataclass(frozen=True)
class Source:
    """One split. pixels: uint8 [N, H, W, C], or storage: to be streamed at `size`."""

    labels: np.ndarray  # int64 [N]
    classes: int
    size: int
    pixels: np.ndarray | None = None
    storage: Storage | None = None


class Reader(Protocol):
    def require(self, split: str) -> object:
        """UserError where there is no such split; decodes nothing."""

    def read(self, split: str) -> Source: ...


def cache_folder() -> Path:
    """Where decoded images are kept on this machine."""
    return Path(os.environ.get("SLIMFRONT_CACHE") or "~/.cache/slimfront").expanduser()


CHUNK = 512  # images decoded at a time: bounds memory, keeps all threads busy
FORMAT = 2  # of the cache; raise it when decoding changes


def cached(
    name: str,
    key: Any,
    size: int,
    rows: Callable[[], tuple[np.ndarray, Iterator[Any]]],
    config: DataConfig | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(pixels uint8 [N, size, size, 3], memory-mapped; labels int64 [N]).

    `rows` gives labels and images, as arrays or as (place, encoded bytes); called on a miss.
    """
    how = [config.resize, config.interpolation] if config else []
    digest = hashlib.sha256(json.dumps([FORMAT, name, key, size, how]).encode()).hexdigest()[:20]
    top = cache_folder()
    folder = top / f"{name}-{digest}"
    if not folder.is_dir():
        labels, stream = rows()
        if not len(labels):
            return np.zeros((0, size, size, 3), np.uint8), labels
        try:
            top.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=top))
        except OSError as error:
            raise UserError(
                f"cannot write the image cache {top} ({error.strerror}); set SLIMFRONT_CACHE"
            ) from error
        try:
            _decode(part / "images.npy", labels, stream, size, config)
            np.save(part / "labels.npy", labels, allow_pickle=False)
            part.rename(folder)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if not (isinstance(error, OSError) and folder.is_dir()):  # another process was first
                raise
    # copy-on-write: torch asks for writable memory, nobody writes
    pixels = np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False)
    return pixels, np.load(folder / "labels.npy", allow_pickle=False)


def remembered(
    name: str, key: Any, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays of a few megabytes as `make` gave them to the first process that asked with this key.

    A cache that cannot be read or written does no harm.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, name, key]).encode()).hexdigest()[:20]
    file = cache_folder() / "index" / f"{name}-{digest}.npz"
    try:
        with np.load(file, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
        pass
    made = make()
    part = file.with_name(f".{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as sink:
            np.savez_compressed(sink, **made)  # type: ignore[arg-type]
        part.rename(file)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return made


def _decode(
    path: Path, labels: np.ndarray, stream: Iterator[Any], size: int, config: DataConfig | None
) -> None:
    out = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(len(labels), size, size, 3)
    )
    short = (config.resize if config else None) or shorter_side(size)
    interpolation = config.interpolation if config else "bilinear"

    def pixels(item: Any) -> np.ndarray:
        return _pixels(item, size, short, interpolation)

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(labels), CHUNK):
            count = min(CHUNK, len(labels) - start)
            chunk = [next(stream) for _ in range(count)]
            for i, decoded in enumerate(pool.map(pixels, chunk), start):
                out[i] = decoded
    out.flush()


def _pixels(item: Any, size: int, short: int, interpolation: str) -> np.ndarray:
    """uint8 [size, size, 3]: the shorter side resized, then the centre."""
    if isinstance(item, np.ndarray):
        image = item
    else:
        place, data = item
        try:
            image = decode(data)
        except BrokenImageError as error:
            raise UserError(f"{place} is no readable image; replace or remove it") from error
    return fit(image, size, short, interpolation)
