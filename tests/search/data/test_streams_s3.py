"""Sets larger than `resident_gb` in an object store: moto's S3 server, real HTTP, real files."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pyarrow import fs

from pruning.data import StreamSet, order, storage
from pruning.errors import UserError
from search.data import DataConfig
from search.data.splits import load
from search.storage.ledger import Ledger
from tests.search import moto_server
from tests.search.data.sample_sets import random_images

ROOT = Path(__file__).parents[3]
CLASSES = 4
COUNTS = {"train": 96, "val": 24}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in moto_server.KEYS.items():
            patch.setenv(name, os.environ.get(name, value))
        with moto_server.bucket(tmp_path_factory.mktemp("moto") / "log") as address:
            yield address


def _encoded(count: int, seed: int) -> list[bytes]:
    """JPEGs of 40x48 pixels whose brightness tells their class."""
    found = []
    for i, pixels in enumerate(random_images(count, 40, 48, seed)):
        buffer = io.BytesIO()
        shade = (pixels // 4 + 48 * (i % CLASSES)).astype(np.uint8)
        Image.fromarray(shade).save(buffer, "JPEG")
        found.append(buffer.getvalue())
    return found


def _images() -> dict[str, list[bytes]]:
    return {split: _encoded(count, seed) for seed, (split, count) in enumerate(COUNTS.items())}


def put(address: str, files: dict[str, bytes]) -> str:
    store, path = fs.FileSystem.from_uri(address)
    for name, data in files.items():
        with store.open_output_stream(f"{path}/{name}") as stream:
            stream.write(data)
    return address


def remove(address: str, name: str) -> None:
    store, path = fs.FileSystem.from_uri(address)
    store.delete_file(f"{path}/{name}")


def folders() -> dict[str, bytes]:
    return {
        f"{split}/class{i % CLASSES}/{i:04}.jpg": data
        for split, images in _images().items()
        for i, data in enumerate(images)
    }


def shards(broken: int | None = None) -> dict[str, bytes]:
    """Three training files of 32 images, row groups of 8, and one to test on."""
    found = {}
    for split, images in _images().items():
        for s in range(0, len(images), 32):
            part = images[s : s + 32]
            rows = [{"bytes": b"none" if s + i == broken else data} for i, data in enumerate(part)]
            labels = [(s + i) % CLASSES for i in range(len(part))]
            sink = io.BytesIO()
            table = pa.table({"image": rows, "label": pa.array(labels, pa.int64())})
            pq.write_table(table, sink, row_group_size=8)
            found[f"data/{split if split == 'train' else 'test'}-{s // 32:05}.parquet"] = (
                sink.getvalue()
            )
    return found


def config(name: str, root: str, **changes: Any) -> DataConfig:
    return DataConfig(name, root, val="0.25", image_size=32, resident_gb=1e-9, **changes)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_stream_from_the_store_gives_the_batches_of_the_disk(
    kind: str, bucket: str, tmp_path: Path
) -> None:
    files = folders() if kind == "folder" else shards()
    for name, data in files.items():
        place = tmp_path / "set" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    address = put(bucket.format(f"same/{kind}"), files)
    local, far = (load(config(kind, root)) for root in (str(tmp_path / "set"), address))
    for a, b in ((local.train, far.train), (local.val, far.val), (local.test, far.test)):
        assert isinstance(a, StreamSet) and isinstance(b, StreamSet)
        assert torch.equal(a.labels, b.labels)
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        passes = [
            s.batches(16, shuffle=True, augment="crop-flip", generator=g)
            for s, g in zip((a, b), generators, strict=True)
        ]
        for (x, y), (x2, y2) in zip(*passes, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)


def test_the_first_batch_does_not_wait_for_the_set(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of some row groups are read ahead, not the 1,920 images."""
    from search.data.parquet import RowGroups

    one = next(iter(shards().values()))
    many = {f"data/train-{i:05}.parquet": one for i in range(60)}
    address = put(bucket.format("many"), {**many, "data/test-00000.parquet": one})
    train = load(config("parquet", address, shared_gb=0.0)).train
    read: list[int] = []
    real = RowGroups.load
    monkeypatch.setattr(RowGroups, "load", lambda self, u: read.append(u) or real(self, u))
    monkeypatch.setattr(order, "FIRST", 20_000)
    monkeypatch.setattr(order, "WINDOW", 40_000)
    batches = iter(train.batches(16, shuffle=True, generator=torch.Generator().manual_seed(0)))
    next(batches)
    assert 2 <= len(read) < 60, "of 240 row groups"


def test_a_shard_that_goes_from_the_store_is_tried_again_then_an_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", waited.append)
    address = put(bucket.format("gone"), shards())
    train = load(config("parquet", address, shared_gb=0.0)).train
    remove(address, "data/train-00001.parquet")
    with pytest.raises(UserError, match=r"train-00001.parquet cannot be read, tried 4 times"):
        for _ in train.batches(16, shuffle=True, generator=torch.Generator()):
            pass
    assert set(storage.WAITS) <= set(waited)
    # and one that comes back in time is none
    monkeypatch.setattr(storage.time, "sleep", lambda s: put(address, shards()))
    assert sum(len(y) for _, y in train.batches(16, shuffle=True, generator=torch.Generator())) > 0


def test_a_broken_image_in_the_store_is_counted_and_left_out(bucket: str) -> None:
    address = put(bucket.format("broken"), shards(broken=40))
    train = load(replace(config("parquet", address), val="last:4")).train
    assert isinstance(train, StreamSet)
    seen = sum(len(y) for _, y in train.batches(16))
    assert seen == 96 - 4 - 1
    (place,) = train.broken.found
    assert place.endswith("row 8 of store/broken/data/train-00001.parquet")


SEARCH = (
    *("--model.name=resnet20", "--data.image_size=32", "--data.resident_gb=1e-9"),
    *("--data.val=0.25", "--base.epochs=0.5", "--base.batch=24", "--finetune.epochs=0.5"),
    *("--finetune.batch=24", "--search.final_seeds=0", "--search.final_points=2"),
    *("--resources.gpus_per_trial=0", "--resources.max_concurrent=2", "--trials=6"),
)


@pytest.mark.nightly(reason="two sessions of real Ray with two workers: a minute or two")
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_search_over_streamed_data_is_killed_and_resumed(
    kind: str, bucket: str, tmp_path: Path
) -> None:
    address = put(bucket.format(f"search/{kind}"), folders() if kind == "folder" else shards())
    out = tmp_path / "run"
    command = [sys.executable, "-m", "search", "search", f"--data.name={kind}"]
    command += [f"--data.root={address}", *SEARCH, f"--out={out}"]
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        until = time.monotonic() + 300
        while len(list(out.glob("trials/*.json"))) < 2 and time.monotonic() < until:
            assert first.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = {path.name: path.read_bytes() for path in out.glob("trials/*.json")}
    assert 2 <= len(before) < 6
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = Ledger(str(out)).rows()
    assert len(rows) == 6
    assert {row.status for row in rows} == {"complete"}
    assert set(before) <= {f"{row.trial_id}.json" for row in rows} | set(before)
    assert json.loads((out / "run.json").read_text())["status"] == "complete"
    ring = list((tmp_path / "cache").glob("ring/*/*.u8"))
    assert ring, "the workers share what they decode"
