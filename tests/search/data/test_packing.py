"""Packing: every image once, small, right labels; goes on where it was killed; what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pruning.data import ImageSet
from pruning.errors import UserError
from search import cli
from search.data import packing, shard, splits
from search.data.spec import DataConfig
from tests.pruning.data.sample_streams import jpeg, photograph

SMALL = packing.Settings(size=32, shard_mb=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """130 + 9 photographs of three classes, whose brightness is their label."""
    for i in range(139):
        label = i % 3
        image = photograph(48 + i % 5, 64, i).point(lambda v, b=label: v // 4 + 60 * b)
        path = tmp_path / "folder" / ("val" if i >= 130 else "train") / "abc"[label] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(image))
    return tmp_path / "folder"


def packed(source: Path, target: Path, settings: packing.Settings = SMALL) -> packing.Packed:
    return packing.pack(str(source), str(target), settings, lambda *_: None, lambda *_: None)


def test_a_folder_becomes_small_shards_with_its_labels(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_images_a_shard", lambda *_: 64)
    result = packed(folder, tmp_path / "packed")
    assert (result.images, result.broken, result.shards) == (139, {}, 3)
    names = sorted(p.name for p in (tmp_path / "packed").glob("*.parquet"))
    assert names == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "val-00000-of-00001.parquet",
    ]
    for row in pq.read_table(tmp_path / "packed" / names[0]).column("image").to_pylist():
        assert min(Image.open(io.BytesIO(row["bytes"])).size) == 32
    config = DataConfig("parquet", str(tmp_path / "packed"), "last:10", image_size=32)
    sets = splits.load(config)
    train, val, test = sets.train, sets.val, sets.test
    assert (len(train), len(val), len(test), train.classes) == (120, 10, 9, 3)
    for part in (train, val, test):
        assert isinstance(part, ImageSet)
        brightness = part.images.float().mean((1, 2, 3))
        assert (brightness.div(60).floor().long() == part.labels).all()
    # folders are read class by class; packed, the classes are mixed
    assert len(set(train.labels[:16].tolist())) == 3


def test_it_goes_on_where_it_was_killed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_images_a_shard", lambda *_: 64)
    done: list[int] = []

    def killed(split: str, images: int) -> None:
        done.append(images)
        if sum(done) == 100:
            raise KeyboardInterrupt

    target = tmp_path / "packed"
    with pytest.raises(KeyboardInterrupt):
        packing.pack(str(folder), str(target), SMALL, killed, lambda *_: None)
    first = target / "train-00000-of-00002.parquet"
    before = first.stat().st_mtime_ns
    assert not (target / "train-00001-of-00002.parquet").exists()
    assert packed(folder, target).images == 139
    assert first.stat().st_mtime_ns == before  # done is done
    labels = pq.read_table(target, columns=["label"]).column(0).to_numpy()
    assert np.bincount(labels).tolist() == [47, 46, 46]
    first.write_bytes(first.read_bytes()[:-100])
    assert packed(folder, target).images == 139  # made anew


def test_parquet_keeps_its_order_names_and_small_images(tmp_path: Path) -> None:
    from tests.search.data.sample_sets import random_images, write_parquet

    write_parquet(tmp_path / "in" / "train.parquet", random_images(70, 20, 24), range(70), "image")
    write_parquet(tmp_path / "in" / "test.parquet", random_images(5, 64, 64), range(5), "image")
    assert packed(tmp_path / "in", tmp_path / "out").images == 75
    table = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet")
    assert table.column("label").to_pylist() == list(range(70))
    assert Image.open(io.BytesIO(table.column("image")[0].as_py()["bytes"])).size == (24, 20)


def test_broken_images_are_left_out_and_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = folder / "train" / "b" / "1.jpg"
    bad.write_bytes(b"no image")
    target = str(tmp_path / "packed")
    assert cli.main(["data", "pack", str(folder), target, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], list(found["broken"])) == (138, [str(bad)])
    assert packed(folder, tmp_path / "packed", packing.Settings()).images == 138


def test_what_it_refuses(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere; correct SOURCE"):
        packed(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="neither Parquet files nor a folder train"):
        packed(folder / "train", tmp_path / "out")
    with pytest.raises(UserError, match="--quality 0"):
        packed(folder, tmp_path / "out", packing.Settings(quality=0))
    with pytest.raises(UserError, match="not empty"):
        packed(folder, folder)
    packed(folder, tmp_path / "out")
    with pytest.raises(UserError, match="another source or of other settings"):
        packed(folder, tmp_path / "out", packing.Settings(size=48))
    monkeypatch.setattr(shard, "_labels", lambda *_: (np.zeros(1), np.ones(2)))
    with pytest.raises(UserError, match="does not hold what was packed"):
        packed(folder, tmp_path / "out")
    assert cli.main(["data", "unpack"]) == 2
