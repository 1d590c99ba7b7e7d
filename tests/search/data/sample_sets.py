"""Data sets of random images, as files, and splits of them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pruning.data.images import ImageSet
from search.data.spec import DataConfig
from search.data.splits import Splits, load


def random_images(count: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form)
    return stream.getvalue()


def write_parquet(
    path: Path,
    images: Iterable[np.ndarray],
    labels: Iterable[int],
    image: str = "img",
    label: str = "label",
    form: str = "PNG",
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [{"bytes": encoded(i, form), "path": None} for i in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {image: pa.array(values, kind), label: pa.array(list(labels), pa.int64())}
    pq.write_table(pa.table(table), path)


def resident(splits: Splits) -> list[ImageSet]:
    parts = [splits.train, splits.val, splits.test]
    assert all(isinstance(part, ImageSet) for part in parts)
    return parts  # type: ignore[return-value]


def load_sizes(config: DataConfig) -> tuple[int, int, int]:
    splits = load(config)
    return len(splits.train), len(splits.val), len(splits.test)
