"""Decoded pixels kept as memory-mapped .npy files, so that only the first load of a set is slow.

They lie below $SLIMFRONT_CACHE (default ~/.cache/slimfront), in a folder whose name depends on the
source's files and the size; it appears at once, whole, so any number of processes may load at the
same time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pruning.data import shorter_side
from pruning.errors import UserError

CHUNK = 512  # images decoded at a time: bounds memory, keeps all threads busy
FORMAT = 1  # of the cache; raise it when decoding changes


def cached(
    name: str,
    key: Any,
    size: int,
    rows: Callable[[], tuple[np.ndarray, Iterator[Any]]],
) -> tuple[np.ndarray, np.ndarray]:
    """(pixels uint8 [N, size, size, 3], memory-mapped; labels int64 [N]).

    `rows` gives labels and images, as arrays or as (place, encoded bytes); called on a miss.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, name, key]).encode()).hexdigest()[:20]
    top = Path(os.environ.get("SLIMFRONT_CACHE") or "~/.cache/slimfront").expanduser()
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
            _decode(part / "images.npy", labels, stream, size)
            np.save(part / "labels.npy", labels, allow_pickle=False)
            part.rename(folder)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if not (isinstance(error, OSError) and folder.is_dir()):  # another process was first
                raise
    # copy-on-write: torch asks for writable memory, nobody writes
    pixels = np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False)
    return pixels, np.load(folder / "labels.npy", allow_pickle=False)


def _decode(path: Path, labels: np.ndarray, stream: Iterator[Any], size: int) -> None:
    out = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(len(labels), size, size, 3)
    )
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(labels), CHUNK):
            count = min(CHUNK, len(labels) - start)
            chunk = [next(stream) for _ in range(count)]
            for i, pixels in enumerate(pool.map(lambda item: _pixels(item, size), chunk), start):
                out[i] = pixels
    out.flush()


def _pixels(item: Any, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: as it is, or its shorter side resized, then centre-cropped."""
    if isinstance(item, np.ndarray):
        image = Image.fromarray(item)
    else:
        place, data = item
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{place} is no readable image; replace or remove it") from error
    if image.size == (size, size):
        return np.asarray(image)
    scale = shorter_side(size) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
