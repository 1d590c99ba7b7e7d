"""Decoded images that the processes of one machine share through files: decoded once, read by all.

Blocks of a shuffled pass lie in a ring of limited size: who comes first decodes, the others read,
and a process that lags behind the ring decodes for itself, to the same bits. Fixed sets are kept
whole. A process that dies leaves its lock to the next; a file appears whole or not at all.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: every process decodes for itself
    fcntl = None  # type: ignore[assignment]

PATIENCE_S = 60.0  # a block that another process decodes for longer is decoded here as well
POLL_S, WAIT_S = 0.004, 0.032  # between looks at a block that is decoded, and that is yet to be
SWEEP = 32  # blocks written between two looks at the ring's size
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sharing:
    """folder: on a local disk; kept_gb: largest fixed set that is kept; ring_gb: of the ring."""

    folder: str
    kept_gb: float = 16.0
    ring_gb: float = 4.0


@dataclass(frozen=True)
class Decoded:
    """source: int32 [n], which image of its block each is; pixels: uint8 [n, size, size, 3]."""

    source: np.ndarray
    pixels: np.ndarray


def folder(sharing: Sharing, name: str) -> Path:
    """Of the blocks of one pass."""
    return Path(sharing.folder) / "ring" / name


def block(
    place: Path,
    sharing: Sharing,
    size: int,
    decode: Callable[[], Decoded],
    expected: Callable[[], bool] = lambda: False,
) -> Decoded:
    """A block: read where another process has decoded it, else decoded and left.

    expected: whether another process has it in work; as long as it does, it is waited for.
    """
    until = time.monotonic() + PATIENCE_S
    while (found := _read(place, size)) is None and expected() and time.monotonic() < until:
        time.sleep(WAIT_S)
    if found is not None:
        return found
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place.with_suffix(".lock"), PATIENCE_S):
            found = _read(place, size)
            if found is not None:
                return found
            made = decode()
            _write(place, [made.source.astype("<i4"), made.pixels])
        place.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be written (%s); images are not shared", place, error.strerror)
        return decode()
    if int(place.stem) % SWEEP == 0:
        _sweep(place.parent.parent, sharing.ring_gb * 1e9)
    return made


@dataclass(frozen=True)
class Kept:
    """A decoded set in a file. good: bool [N], which images could be read."""

    file: Path
    good: np.ndarray
    size: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """uint8 [stop - start, size, size, 3]; read, not mapped, to stay small in memory."""
        shape = (stop - start, self.size, self.size, 3)
        return np.fromfile(
            self.file, np.uint8, int(np.prod(shape)), offset=start * self.size**2 * 3
        ).reshape(shape)


def kept(
    sharing: Sharing,
    name: str,
    count: int,
    size: int,
    decode: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
) -> Kept | None:
    """A fixed set, decoded by the first process that asks. None where it cannot be kept.

    decode: gives (positions int64 [n], pixels uint8 [n, size, size, 3]) in any order; positions
    that it leaves out are no good.
    """
    each = size * size * 3
    if count * each > sharing.kept_gb * 1e9:
        return None
    folder = Path(sharing.folder) / "kept"
    pixels, mask = folder / f"{name}.u8", folder / f"{name}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{name}.lock"):
            if not mask.is_file():
                good = np.zeros(count, dtype=bool)
                part = folder / f"{name}.part"  # of a process that died: written anew
                with part.open("wb") as file:
                    file.truncate(count * each)
                    for positions, values in decode():
                        for position, value in zip(positions.tolist(), values, strict=True):
                            file.seek(position * each)
                            file.write(value.data)
                        good[positions] = True
                part.rename(pixels)
                half = folder / f"{name}.half"
                with half.open("wb") as file:
                    np.save(file, good, allow_pickle=False)
                half.rename(mask)
        return Kept(pixels, np.load(mask, allow_pickle=False), size)
    except OSError as error:
        logger.warning("%s cannot be written (%s); decoding anew", folder, error.strerror)
        return None


@contextmanager
def locked(path: Path, patience: float = float("inf")) -> Iterator[None]:
    """Within, this thread of this process alone holds the lock, or has waited long enough."""
    if fcntl is None:
        yield
        return
    with path.open("w") as file:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    break
                time.sleep(POLL_S)
        yield


def _read(place: Path, size: int) -> Decoded | None:
    try:
        data = np.fromfile(place, np.uint8)
    except OSError:
        return None
    count, rest = divmod(len(data), size * size * 3 + 4)
    if rest:
        return None
    source = data[: 4 * count].view("<i4")
    return Decoded(source, data[4 * count :].reshape(count, size, size, 3))


def _write(place: Path, parts: list[np.ndarray]) -> None:
    part = place.with_name(f".{uuid.uuid4().hex}")
    try:
        with part.open("wb") as file:
            for array in parts:
                file.write(np.ascontiguousarray(array).data)
        part.rename(place)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _sweep(ring: Path, limit: float) -> None:
    """Remove the oldest blocks beyond the limit, and what a process that died left."""
    found = []
    for folder in os.scandir(ring):
        with suppress(OSError):
            found += [(e.stat().st_mtime, e.stat().st_size, e.path) for e in os.scandir(folder)]
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with suppress(OSError):
            os.unlink(path)
        total -= size
