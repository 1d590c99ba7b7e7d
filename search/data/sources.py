"""Images and labels from Parquet files, image folders, torchvision and scikit-learn."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import fs

from pruning.data import Images, ImageSet, StreamSet
from pruning.errors import UserError
from pruning.models import files as uri
from search.data.cache import CHUNK, cached
from search.data.spec import DataConfig, stratified

TEST_NAMES = ("test", "validation", "valid", "val")
"""Splits that serve as test, the first that exists."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm")


@dataclass(frozen=True)
class Source:
    """One split. pixels: uint8 [N, H, W, C], or files: str [N] (to be streamed at `size`)."""

    labels: np.ndarray  # int64 [N]
    classes: int
    size: int
    pixels: np.ndarray | None = None
    files: np.ndarray | None = None


class Reader(Protocol):
    def require(self, split: str) -> object:
        """UserError where there is no such split; decodes nothing."""

    def read(self, split: str) -> Source: ...


def source(config: DataConfig, size: int) -> Reader:
    """What reads the splits of a data set. Raises UserError where its files are not."""
    if config.name == "digits":
        return _Digits()
    root = str(config.root)
    store, path = uri.filesystem(root)
    local = isinstance(store, fs.LocalFileSystem)
    if store.get_file_info(path).type == fs.FileType.NotFound and not config.download:
        raise UserError(f"there is no folder {root}; correct data.root")
    if config.name == "folder":
        if not local:
            raise UserError(f"image folders must be local, not {root}; use Parquet files there")
        return _Folder(Path(path), size, config.resident_gb)
    parquet = _Parquet(store, path, root, size, config)
    if config.name == "parquet" or parquet.files:
        return parquet
    if not local:
        raise UserError(f"no train-*.parquet in {root}; correct data.root")
    return _Torchvision(config.name, path, config.download, size)


def images(
    part: Source, *, mean: tuple[float, ...], std: tuple[float, ...], classes: int, augment: str
) -> Images:
    """A split as the set that training and scoring take, on the CPU."""
    labels = torch.from_numpy(np.array(part.labels, dtype=np.int64))
    if part.files is not None:
        return StreamSet(part.files, labels, part.size, mean, std, classes, augment)
    pixels = torch.from_numpy(part.pixels).permute(0, 3, 1, 2)
    return ImageSet(pixels, labels, mean, std, classes, augment)


class _Digits:
    """scikit-learn's 1,797 digits; a fixed stratified fifth is test."""

    def require(self, split: str) -> None:
        if split not in ("train", "test"):
            raise UserError("digits has no further split; set data.val to a share such as 0.1")

    def read(self, split: str) -> Source:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int64)
        test = stratified(labels, 0.2, seed=0)
        rows = test if split == "test" else ~test
        return Source(labels[rows], 10, 8, pixels[rows])


class _Torchvision:
    """CIFAR as torchvision downloads it; it checks each file's MD5 before it unpickles any."""

    def __init__(self, name: str, root: str, download: bool, size: int) -> None:
        self.name, self.root, self.download, self.size = name, root, download, size

    def require(self, split: str) -> None:
        if split not in ("train", "test"):
            raise UserError(f"{self.name} has no split {split}; set data.val to last:5000 or 0.1")

    def read(self, split: str) -> Source:
        from torchvision import datasets

        factory: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[self.name]
        folder = Path(self.root) / factory.base_folder
        if not folder.is_dir() and not self.download:
            raise UserError(
                f"no {self.name} in {self.root}: neither train-*.parquet nor {factory.base_folder}"
                "; correct data.root or set data.download to true"
            )
        made: list[Any] = []

        def dataset() -> Any:
            if not made:
                try:
                    made.append(factory(self.root, train=split == "train", download=self.download))
                except (OSError, RuntimeError) as error:
                    raise UserError(
                        f"{self.name} in {self.root} cannot be had ({error}); "
                        "check the network and data.root, or copy the files there"
                    ) from error
            return made[0]

        if not folder.is_dir():
            dataset()
        parts = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(folder.iterdir())]
        key = [self.name, split, self.size, parts]
        names = 100 if self.name == "cifar100" else 10
        pixels, labels = cached(
            self.name,
            key,
            self.size,
            lambda: (np.array(dataset().targets, dtype=np.int64), iter(dataset().data)),
        )
        return Source(labels, names, self.size, pixels)


class _Parquet:
    """Files SPLIT-*.parquet with a struct of encoded `bytes` and a label, as on the HF Hub."""

    def __init__(
        self, store: fs.FileSystem, path: str, root: str, size: int, config: DataConfig
    ) -> None:
        self.store, self.root, self.size, self.name = store, root, size, config.name
        self.limit = config.resident_gb
        found = store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        self.files = sorted(
            (f for f in found if f.is_file and f.path.endswith(".parquet")), key=lambda f: f.path
        )

    def require(self, split: str) -> list[fs.FileInfo]:
        names = TEST_NAMES if split == "test" else (split,)
        files = next((f for name in names if (f := self._split(name))), [])
        if not files:
            have = ", ".join(f.base_name for f in self.files[:4]) or "no Parquet file at all"
            raise UserError(
                f"no {names[0]}-*.parquet in {self.root} (it has {have}); correct data.root"
            )
        return files

    def read(self, split: str) -> Source:
        files = self.require(split)
        image, label, classes = self._columns(files[0])
        key = [label, self.size, [[f.base_name, f.size, f.mtime_ns] for f in files]]

        def rows() -> tuple[np.ndarray, Iterator[Any]]:
            labels = np.concatenate([self._labels(f, label) for f in files])
            needed = len(labels) * 3 * self.size**2 / 1e9
            if needed > self.limit:
                raise UserError(
                    f"{self.root} needs {needed:.0f} GB decoded, above data.resident_gb "
                    f"{self.limit:g}; raise it, or use an image folder, which can be streamed"
                )
            return labels, self._encoded(files, image)

        pixels, labels = cached(f"{self.name}-{split}", key, self.size, rows)
        return Source(labels, classes or int(labels.max(initial=-1)) + 1, self.size, pixels)

    def _split(self, name: str) -> list[fs.FileInfo]:
        pattern = re.compile(rf"{re.escape(name)}([-_.].*)?\.parquet")
        return [f for f in self.files if pattern.fullmatch(f.base_name)]

    def _columns(self, file: fs.FileInfo) -> tuple[str, str, int]:
        """Names of the image and label columns, and the number of classes (0: not stated)."""
        schema = self._open(file).schema_arrow
        image = next((n for n in ("img", "image") if n in schema.names), None)
        wanted = ("fine_label",) if self.name == "cifar100" else ("label", "fine_label", "labels")
        label = next((n for n in wanted if n in schema.names), None)
        good = image is not None and pa.types.is_struct(schema.field(image).type)
        if not good or label is None or "bytes" not in schema.field(image).type.names:
            raise UserError(
                f"{file.path} has the columns {', '.join(schema.names)}; needed are img or image "
                f"(a struct with bytes) and {' or '.join(wanted)}"
            )
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = told.get("info", {}).get("features", {}).get(label, {})
        return str(image), label, len(feature.get("names", ()))

    def _labels(self, file: fs.FileInfo, label: str) -> np.ndarray:
        column = self._open(file).read([label]).column(label)
        if column.null_count or not pa.types.is_integer(column.type):
            raise UserError(f"{label} in {file.path} must be whole numbers without gaps; mend it")
        return column.to_numpy().astype(np.int64)

    def _encoded(self, files: Sequence[fs.FileInfo], image: str) -> Iterator[tuple[str, bytes]]:
        for file in files:
            row = 0
            for batch in self._open(file).iter_batches(CHUNK, columns=[image]):
                for value in batch.column(0).field("bytes").to_pylist():
                    yield f"row {row} of {file.path}", value
                    row += 1

    def _open(self, file: fs.FileInfo) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.store.open_input_file(file.path))
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"{file.path} cannot be read as Parquet ({error}); copy it again"
            ) from error


class _Folder:
    """root/train, root/test or root/val, each with one folder of images for every class."""

    def __init__(self, root: Path, size: int, resident_gb: float) -> None:
        self.root, self.size, self.limit = root, size, resident_gb
        self.names = self._classes("train")

    def require(self, split: str) -> str:
        names = TEST_NAMES if split == "test" else (split,)
        folder = next((n for n in names if (self.root / n).is_dir()), names[0])
        unknown = sorted(set(self._classes(folder)) - set(self.names))
        if unknown:
            raise UserError(
                f"{self.root / folder} has the class {unknown[0]}, which train has not; remove it"
            )
        return folder

    def read(self, split: str) -> Source:
        folder = self.require(split)
        files, labels = self._list(folder)
        if len(files) * 3 * self.size**2 / 1e9 > self.limit:
            return Source(labels, len(self.names), self.size, files=np.array(files, dtype=np.str_))
        stats = [(os.path.relpath(f, self.root), os.stat(f)) for f in files]
        key = [self.size, [[name, s.st_size, s.st_mtime_ns] for name, s in stats], self.names]
        pixels, labels = cached(
            f"folder-{folder}",
            key,
            self.size,
            lambda: (labels, ((file, Path(file).read_bytes()) for file in files)),
        )
        return Source(labels, len(self.names), self.size, pixels)

    def _classes(self, split: str) -> list[str]:
        folder = self.root / split
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; image folders need train and test")
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())

    def _list(self, split: str) -> tuple[list[str], np.ndarray]:
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.names):
            inside = [
                os.path.join(parent, file)
                for parent, _, names in os.walk(self.root / split / name)
                for file in names
                if file.lower().endswith(SUFFIXES)
            ]
            files += sorted(inside)
            labels += [label] * len(inside)
        return files, np.array(labels, dtype=np.int64)
