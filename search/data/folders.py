"""Image folders: root/train, root/test or root/val, each with a folder of images a class."""

from __future__ import annotations

import posixpath
from functools import cached_property

import numpy as np
from pyarrow import fs

from pruning.data import FileStorage
from pruning.errors import UserError
from search.data.cache import TEST_NAMES, Source, cached
from search.data.spec import DataConfig

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm")


class Folders:
    """The splits of an image folder, on a disk or in an object store."""

    def __init__(
        self, store: fs.FileSystem, path: str, root: str, size: int, config: DataConfig
    ) -> None:
        self.store, self.path, self.root = store, path.rstrip("/"), root
        self.size, self.config = size, config

    @cached_property
    def names(self) -> list[str]:
        """The classes, in the order of their labels."""
        return self._classes("train")

    def require(self, split: str) -> str:
        names = TEST_NAMES if split == "test" else (split,)
        there = {posixpath.basename(d.path) for d in self._folders(self.path)}
        folder = next((n for n in names if n in there), names[0])
        unknown = sorted(set(self._classes(folder)) - set(self.names))
        if unknown:
            raise UserError(
                f"{self.path}/{folder} has the class {unknown[0]}, which train has not; remove it"
            )
        return folder

    def read(self, split: str) -> Source:
        folder = self.require(split)
        storage, labels = self.stored(folder)
        classes = len(self.names)
        if len(labels) * 3 * self.size**2 / 1e9 > self.config.resident_gb:
            return Source(labels, classes, self.size, storage=storage)
        pixels, labels = cached(
            f"folder-{folder}",
            [storage.digest, self.names],
            self.size,
            lambda: (labels, ((storage.place(i), storage.load(i)[0]) for i in range(len(labels)))),
            self.config,
        )
        return Source(labels, classes, self.size, pixels)

    def stored(self, folder: str) -> tuple[FileStorage, np.ndarray]:
        """The files of a split in the order of their paths, class by class; labels int64 [N]."""
        top = f"{self.path}/{folder}/"
        rank = {name: label for label, name in enumerate(self.names)}
        found = [
            (rank[f.path[len(top) :].split("/", 1)[0]], f.path, f.size, f.mtime_ns)
            for f in self.store.get_file_info(fs.FileSelector(top.rstrip("/"), recursive=True))
            if f.type == fs.FileType.File
            and f.path.lower().endswith(SUFFIXES)
            and "/" in f.path[len(top) :]
        ]
        found.sort()
        storage = FileStorage(
            np.array([path for _, path, _, _ in found], dtype=np.str_),
            np.array([size for _, _, size, _ in found], dtype=np.int64),
            str([mtime for _, _, _, mtime in found]),
            self.store,
        )
        return storage, np.array([label for label, *_ in found], dtype=np.int64)

    def _classes(self, split: str) -> list[str]:
        return sorted(posixpath.basename(d.path) for d in self._folders(f"{self.path}/{split}"))

    def _folders(self, path: str) -> list[fs.FileInfo]:
        try:
            found = self.store.get_file_info(fs.FileSelector(path))
        except FileNotFoundError:
            raise UserError(
                f"there is no folder {path}; image folders need train and test"
            ) from None
        return [entry for entry in found if entry.type == fs.FileType.Directory]
