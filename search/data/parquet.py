"""Parquet files with encoded images and labels, as on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pruning.data import Encoded, patiently
from pruning.errors import UserError
from search.data.cache import TEST_NAMES, Source, cached, remembered
from search.data.spec import DataConfig

FOOTERS = 16  # files whose labels are read at a time


class Parquet:
    """Files SPLIT-*.parquet with a struct of encoded `bytes` and a label."""

    def __init__(
        self, store: fs.FileSystem, path: str, root: str, size: int, config: DataConfig
    ) -> None:
        self.store, self.root, self.size, self.config = store, root, size, config
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
        storage, labels, names = self.stored(split)
        classes = len(names) or int(labels.max(initial=-1)) + 1
        if len(labels) * 3 * self.size**2 / 1e9 > self.config.resident_gb:
            return Source(labels, classes, self.size, storage=storage)
        pixels, labels = cached(
            f"{self.config.name}-{split}",
            storage.digest,
            self.size,
            lambda: (labels, _encoded(storage)),
            self.config,
        )
        return Source(labels, classes, self.size, pixels)

    def stored(self, split: str) -> tuple[RowGroups, np.ndarray, list[str]]:
        """The row groups of a split, labels int64 [N], and the classes' names if it has them.

        What many files say of themselves is kept: each worker would ask them all again.
        """
        files = self.require(split)
        if len(files) > FOOTERS or not isinstance(self.store, fs.LocalFileSystem):
            places = [[f.path, f.size, f.mtime_ns] for f in files]
            key = [self.config.name, self.root, places]
            found = remembered("parquet", key, lambda: self._index(files))
        else:
            found = self._index(files)
        image, label, *names = found["names"].tolist()
        storage = RowGroups(
            self.store,
            tuple(f.path for f in files),
            image,
            found["groups"],
            found["rows"],
            found["bytes"],
            json.dumps([label, [[f.base_name, f.size, f.mtime_ns] for f in files]]),
        )
        return storage, found["labels"], names

    def _index(self, files: list[fs.FileInfo]) -> dict[str, np.ndarray]:
        """Labels int64 [N]; of each row group its file and number there, its images and bytes.

        names: of the image column, of the label column, of the classes.
        """
        image, label, names = columns(self._open(files[0]), files[0].path, self.config.name)

        def look(file: fs.FileInfo) -> tuple[np.ndarray, list[tuple[int, int]]]:
            parquet = self._open(file)
            column = parquet.read([label]).column(label)
            if column.null_count or not pa.types.is_integer(column.type):
                raise UserError(
                    f"{label} in {file.path} must be whole numbers without gaps; mend it"
                )
            groups = [parquet.metadata.row_group(g) for g in range(parquet.num_row_groups)]
            return column.to_numpy().astype(np.int64), [(g.num_rows, _bytes(g)) for g in groups]

        with ThreadPoolExecutor(FOOTERS) as pool:
            found = list(pool.map(look, files))
        return {
            "labels": np.concatenate([labels for labels, _ in found]),
            "groups": np.array(
                [(f, g) for f, (_, gs) in enumerate(found) for g in range(len(gs))], np.int64
            ),
            "rows": np.array([rows for _, groups in found for rows, _ in groups], np.int64),
            "bytes": np.array([size for _, groups in found for _, size in groups], np.int64),
            "names": np.array([image, label, *names]),
        }

    def _split(self, name: str) -> list[fs.FileInfo]:
        pattern = re.compile(rf"{re.escape(name)}([-_.].*)?\.parquet")
        return [f for f in self.files if pattern.fullmatch(f.base_name)]

    def _open(self, file: fs.FileInfo) -> pq.ParquetFile:
        return opened(self.store, file.path)


@dataclass(frozen=True)
class RowGroups:
    """Storage whose units are row groups. groups: int64 [units, 2], file and row group in it.

    rows: int64 [units], images of each; unit_bytes: encoded, likewise; names: what changes with
    the files.
    """

    store: fs.FileSystem
    files: tuple[str, ...]
    image: str
    groups: np.ndarray
    rows: np.ndarray
    unit_bytes: np.ndarray
    names: str
    footers: dict[int, pq.FileMetaData] = field(default_factory=dict, compare=False)

    @cached_property
    def unit_of(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.rows)), self.rows)

    @cached_property
    def offset_of(self) -> np.ndarray:
        begins = np.cumsum(self.rows) - self.rows
        return np.arange(int(self.rows.sum())) - np.repeat(begins, self.rows)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.names.encode()).hexdigest()[:20]

    @property
    def remote(self) -> bool:
        return not isinstance(self.store, fs.LocalFileSystem)

    def place(self, row: int) -> str:
        file = int(self.groups[self.unit_of[row], 0])
        before = int(self.rows[self.groups[:, 0] < file].sum())
        return f"row {row - before} of {self.files[file]}"

    def load(self, unit: int) -> Sequence[Encoded]:
        file, group = self.groups[unit].tolist()
        path = self.files[file]

        def read() -> pa.ChunkedArray:
            parquet = opened(self.store, path, self.footers.get(file))
            self.footers.setdefault(file, parquet.metadata)
            found = parquet.read_row_group(group, [f"{self.image}.bytes"], use_threads=False)
            return found.column(0)

        try:
            column = patiently(read, path)
        except pa.ArrowInvalid as error:
            raise _damaged(path, error) from error
        return [view for chunk in column.chunks for view in _views(chunk)]


def columns(file: pq.ParquetFile, path: str, name: str) -> tuple[str, str, list[str]]:
    """Names of the image and the label column, and of the classes, where they are stated."""
    schema = file.schema_arrow
    image = next((n for n in ("img", "image") if n in schema.names), None)
    wanted = ("fine_label",) if name == "cifar100" else ("label", "fine_label", "labels")
    label = next((n for n in wanted if n in schema.names), None)
    good = image is not None and pa.types.is_struct(schema.field(image).type)
    if not good or label is None or "bytes" not in schema.field(image).type.names:
        raise UserError(
            f"{path} has the columns {', '.join(schema.names)}; needed are img or image "
            f"(a struct with bytes) and {' or '.join(wanted)}"
        )
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = told.get("info", {}).get("features", {}).get(label, {})
    return str(image), label, list(feature.get("names", ()))


def opened(
    store: fs.FileSystem, path: str, footer: pq.FileMetaData | None = None
) -> pq.ParquetFile:
    """A Parquet file of a store. UserError where it is damaged or cannot be reached."""
    remote = not isinstance(store, fs.LocalFileSystem)
    try:
        stream = patiently(lambda: store.open_input_file(path), path)
        return pq.ParquetFile(stream, metadata=footer, pre_buffer=remote)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as Parquet ({error}); copy it again")


def _bytes(group: pq.RowGroupMetaData) -> int:
    """Size of the encoded images of a row group."""
    found = (group.column(c) for c in range(group.num_columns))
    return sum(c.total_compressed_size for c in found if c.path_in_schema.endswith(".bytes"))


def _views(chunk: pa.StructArray) -> Iterator[Encoded]:
    """Each image's bytes, where they lie."""
    values = chunk.flatten()[0].cast(pa.large_binary())
    _, offsets, data = values.buffers()
    if offsets is None:
        return
    ends = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    # Arrow calls its bytes signed, which JPEG decoders refuse
    whole = memoryview(data).cast("B") if data is not None else memoryview(b"")
    for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        yield whole[start:stop]


def _encoded(storage: RowGroups) -> Iterator[tuple[str, Encoded]]:
    row = 0
    for unit in range(len(storage.rows)):
        for data in storage.load(unit):
            yield storage.place(row), data
            row += 1
