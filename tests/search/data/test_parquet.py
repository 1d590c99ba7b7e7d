"""Parquet sets that are streamed: the same images as in memory, sparse splits, what breaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pruning.data import ImageSet, StreamSet, decoding, storage
from pruning.errors import UserError
from search.data import parquet
from search.data.spec import DataConfig
from search.data.splits import load
from tests.search.data.sample_sets import random_images, write_parquet


@pytest.fixture
def shards(tmp_path: Path) -> DataConfig:
    """90 + 30 images of 20x24 pixels in three training files, row groups of 8 images."""
    root = tmp_path / "shards"
    images = random_images(120, 20, 24)
    for i in range(4):
        name = f"train-{i:05}-of-00003" if i < 3 else "test-00000-of-00001"
        part = slice(30 * i, 30 * i + 30)
        path = root / f"{name}.parquet"
        write_parquet(path, images[part], np.arange(120)[part] % 10, "image")
        pq.write_table(pq.read_table(path), path, row_group_size=8)
    return DataConfig("parquet", str(root), image_size=16, resident_gb=1e-9)


def test_a_streamed_set_holds_what_one_in_memory_holds(shards: DataConfig) -> None:
    streamed, kept = load(shards), load(replace(shards, resident_gb=8))
    for a, b in zip(
        (streamed.train, streamed.val, streamed.test),
        (kept.train, kept.val, kept.test),
        strict=True,
    ):
        assert isinstance(a, StreamSet) and isinstance(b, ImageSet)
        assert a.classes == b.classes == 10 and torch.equal(a.labels, b.labels)
        for (x, y), (x2, y2) in zip(a.batches(25), b.batches(25), strict=True):
            torch.testing.assert_close(x, x2)
            assert torch.equal(y, y2)


def test_jpegs_are_decoded_by_the_fast_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    images = random_images(24, 60, 80)
    for name in ("train", "test"):
        write_parquet(
            tmp_path / f"{name}.parquet", images, np.arange(24) % 10, "image", form="JPEG"
        )
    config = DataConfig("parquet", str(tmp_path), "last:4", image_size=16, resident_gb=1e-9)
    train = load(config).train
    monkeypatch.setattr(decoding, "Image", None)  # Pillow's
    for augment in ("none", "crop-flip"):
        assert sum(len(y) for _, y in train.batches(8, augment=augment)) == len(train) == 20


def test_many_files_are_asked_once_for_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path / "cache"))
    root, images = tmp_path / "set", random_images(40, 20, 24)
    for i in range(20):
        write_parquet(root / f"train-{i:05}.parquet", images[2 * i : 2 * i + 2], [i % 10, 3], "img")
    write_parquet(root / "test.parquet", images, np.arange(40) % 10, "img")
    asked: list[str] = []
    original = parquet.opened
    monkeypatch.setattr(parquet, "opened", lambda s, p, *a: asked.append(p) or original(s, p, *a))
    config = DataConfig("parquet", str(root), "last:2", image_size=16, resident_gb=1e-9)
    first, count = load(config).train, len({p for p in asked if "train" in p})
    asked.clear()
    again = load(config).train
    assert count == 20 and not [p for p in asked if "train" in p]
    assert torch.equal(first.labels, again.labels)
    for (x, y), (x2, y2) in zip(first.batches(16), again.batches(16), strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    for file in (tmp_path / "cache" / "index").iterdir():
        file.write_bytes(b"half of it")
    assert torch.equal(load(config).train.labels, first.labels)
    write_parquet(root / "train-00000.parquet", images[:2], [7, 7], "img")
    assert load(config).train.labels[:2].tolist() == [7, 7]


def test_a_shuffled_pass_reads_each_row_group_once(
    shards: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.data.parquet import RowGroups

    read: list[int] = []
    original = RowGroups.load
    monkeypatch.setattr(RowGroups, "load", lambda s, unit: read.append(unit) or original(s, unit))
    train = load(shards).train
    labels = torch.cat([y for _, y in train.batches(16, shuffle=True, augment="auto")])
    assert labels.bincount().tolist() == train.labels.bincount().tolist()
    assert sorted(read) == list(range(12))  # four in each file


def test_images_without_bytes_are_skipped(shards: DataConfig) -> None:
    path = Path(str(shards.root)) / "train-00001-of-00003.parquet"
    table = pq.read_table(path).to_pylist()
    table[3]["image"] = None
    table[9]["image"]["bytes"] = b"none"
    schema = pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist(table, schema), path, row_group_size=8)
    train = load(replace(shards, val="last:1")).train
    assert isinstance(train, StreamSet)
    assert sum(len(y) for _, y in train.batches(16)) == 87
    assert {p.rpartition("/")[0].split(" ")[0:2][1] for p in train.broken.found} == {"3", "9"}
    assert all(str(path) in place for place in train.broken.found)


def test_a_shard_that_goes_or_rots_is_an_error_that_names_it(
    shards: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "WAITS", (0.01,))
    train = load(shards).train
    path = Path(str(shards.root)) / "train-00001-of-00003.parquet"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"train-00001.* cannot be read, tried 2 times"):
        list(train.batches(16, shuffle=True))
    path.write_bytes(data[:200] + bytes(4000) + data[4200:])
    with pytest.raises(UserError, match=r"train-00001.* cannot be read"):
        list(train.batches(16, shuffle=True))
