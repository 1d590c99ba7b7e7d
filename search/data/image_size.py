"""The side of the images where nobody states one: looked up in the images themselves."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError
from pyarrow import fs

from pruning.models import files
from search.data.spec import OWN_FILES, DataConfig, kind

LOOKED_AT = 512  # images, at most
FAR = 32  # where each is fetched from an object store
A_CLASS = 8  # of each class at most, so that one odd folder does not speak for all


def of(config: DataConfig) -> tuple[int, str]:
    """Side of the images in pixels, and a line where it was looked up in them, else "".

    All that is read are the headers of a few hundred training images.
    """
    usual = kind(config).size
    if config.image_size is not None or config.name not in OWN_FILES:
        return config.image_size or usual, ""
    look = _of_folder if config.name == "folder" else _of_parquet
    return choose(islice(look(str(config.root)), LOOKED_AT), usual)


def choose(samples: Iterable[Any], usual: int) -> tuple[int, str]:
    """Side in pixels, and a line that says so. samples: paths or encoded bytes of images.

    Squares that are all alike keep their size; others become `usual`. What cannot be read is left
    to the decoder, which names it.
    """
    found = [size for size in map(_size, samples) if size is not None]
    if not found:
        return usual, ""
    low, high = min(found), max(found)
    if low == high and low[0] == low[1]:
        return low[0], f"all {len(found)} images looked at are {_name(low)}, taking {low[0]}"
    known = f"are {_name(low)}" if low == high else f"lie between {_name(low)} and {_name(high)}"
    return usual, (
        f"{len(found)} images looked at {known}: resized and cropped to {usual} pixels "
        "(data.image_size chooses another size)"
    )


def _size(sample: Any) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(sample) if isinstance(sample, bytes) else sample) as image:
            return image.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
        return None


def _name(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _of_folder(root: str) -> Iterator[str | bytes]:
    """Some images of each class; none where the folders are not as they should be."""
    store, path = files.filesystem(root)
    local = isinstance(store, fs.LocalFileSystem)
    looked_at = LOOKED_AT if local else FAR
    classes = _below(store, f"{path.rstrip('/')}/train", fs.FileType.Directory)
    each = max(1, min(A_CLASS, looked_at // max(1, len(classes))))
    for folder in classes[:looked_at]:
        for file in _below(store, folder, fs.FileType.File)[:each]:
            yield file if local else store.open_input_file(file).read()


def _below(store: fs.FileSystem, path: str, kind: fs.FileType) -> list[str]:
    found = store.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.path for info in found if info.type == kind)


def _of_parquet(root: str) -> Iterator[bytes]:
    """Encoded images of the first training file; none where it is not as it should be."""
    store, path = files.filesystem(root)
    found = store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    train = sorted(f.path for f in found if f.base_name.startswith("train") and f.is_file)
    try:
        file = pq.ParquetFile(store.open_input_file(train[0]))
        column = next(name for name in ("img", "image") if name in file.schema_arrow.names)
        batch = next(file.iter_batches(LOOKED_AT, columns=[column]))
        rows = batch.column(0).field("bytes").to_pylist()
    except (OSError, pa.ArrowException, LookupError, StopIteration, AttributeError):
        return  # the reader says what is wrong
    yield from (row for row in rows if isinstance(row, bytes))
