"""Where encoded images lie: units that are read whole (a row group, a file), and how."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from pyarrow import fs

from pruning.data.decoding import Encoded
from pruning.errors import UserError

T = TypeVar("T")
WAITS = (0.2, 1.0, 3.0)  # seconds before what cannot be read is tried again, for the last time


class Storage(Protocol):
    """The encoded images of a split. Row r lies in unit `unit_of[r]`, as its `offset_of[r]`th."""

    @property
    def unit_of(self) -> np.ndarray:
        """int64 [N]"""

    @property
    def offset_of(self) -> np.ndarray:
        """int64 [N]"""

    @property
    def unit_bytes(self) -> np.ndarray:
        """int64 [units], encoded."""

    def load(self, unit: int) -> Sequence[Encoded]:
        """All images of a unit. UserError where it is gone or cannot be read."""

    def place(self, row: int) -> str:
        """Where an image lies, for messages."""

    @property
    def digest(self) -> str:
        """Names the content: equal only for the same files."""

    @property
    def remote(self) -> bool:
        """Whether reading waits for a network, so that many reads at a time help."""


@dataclass(frozen=True)
class FileStorage:
    """One image a file. paths: str [N]; sizes: bytes; names what changes with the content."""

    paths: np.ndarray
    sizes: np.ndarray
    names: str = ""
    filesystem: fs.FileSystem | None = None

    @cached_property
    def unit_of(self) -> np.ndarray:
        return np.arange(len(self.paths))

    @cached_property
    def offset_of(self) -> np.ndarray:
        return np.zeros(len(self.paths), dtype=np.int64)

    @property
    def unit_bytes(self) -> np.ndarray:
        return self.sizes

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256(self.names.encode())
        digest.update("\0".join(self.paths.tolist()).encode())
        digest.update(np.ascontiguousarray(self.sizes, dtype=np.int64).tobytes())
        return digest.hexdigest()[:20]

    @property
    def remote(self) -> bool:
        return self.filesystem is not None and not isinstance(self.filesystem, fs.LocalFileSystem)

    def load(self, unit: int) -> Sequence[Encoded]:
        path = str(self.paths[unit])

        def read() -> bytes:
            if self.filesystem is None:
                with open(path, "rb") as file:
                    return file.read()
            with self.filesystem.open_input_file(path) as stream:
                return bytes(stream.read())

        return [patiently(read, path)]

    def place(self, row: int) -> str:
        return str(self.paths[row])


def local_files(paths: Sequence[str]) -> FileStorage:
    """Image files of this machine."""
    stats = [os.stat(path) for path in paths]
    sizes = np.array([s.st_size for s in stats], dtype=np.int64)
    return FileStorage(np.array(paths, dtype=np.str_), sizes, str([s.st_mtime_ns for s in stats]))


def patiently(read: Callable[[], T], place: str) -> T:
    """What `read` returns, tried again a few times; then UserError, naming the place."""
    for wait in (*WAITS, None):
        try:
            return read()
        except OSError as error:
            if wait is None:
                line = str(error).strip().split("\n")[0]
                raise UserError(
                    f"{place} cannot be read, tried {len(WAITS) + 1} times ({line}); "
                    "check that it is there, and the disk or network"
                ) from error
            time.sleep(wait)
    raise AssertionError
