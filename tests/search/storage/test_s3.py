"""Runs, weights and images in an object store: moto's S3 server, over HTTP, in its own process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs
from rich.console import Console

from pruning.errors import UserError
from pruning.models import checkpoint, files
from pruning.models.registry import resolve
from pruning.models.tensors import write_tensors
from search import cli, runner
from search.config import loader as configuration
from search.data import splits
from search.storage.ledger import Ledger
from search.trial import base_model
from tests.search import moto_server

QUICK = ["digits", "--base.epochs=0.5", "--finetune.epochs=0.1", "--search.final_seeds=1"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[str]:
    """s3://{}?… of a bucket, its endpoint in the address; `ray_local` has set the keys."""
    pytest.importorskip("moto.server")
    with moto_server.bucket(tmp_path_factory.mktemp("moto") / "log") as address:
        yield address


def objects(address: str) -> dict[str, int]:
    """Size of each object below an address, by its path there."""
    store, path = fs.FileSystem.from_uri(address)
    infos = store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {i.path[len(path) + 1 :]: i.size for i in infos if i.type == fs.FileType.File}


def search(address: str, *flags: str) -> None:
    config = configuration.load([*QUICK, "--search.final_epochs=0.1", f"--out={address}", *flags])
    runner.run(config, Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def finished(bucket: str, ray_local: None) -> str:
    address = bucket.format("runs/one")
    search(address, "--trials=3")
    return address


def test_every_file_is_an_object(finished: str) -> None:
    found = objects(finished)
    for name in ("run.json", "trials.parquet", "frontier.parquet", "frontier.csv", "frontier.png"):
        assert found[name] > 0
    assert sum(name.startswith("trials/") for name in found) == 3
    frontier = pq.read_table(pa.BufferReader(files.read(files.join(finished, "frontier.parquet"))))
    for point in frontier.to_pylist():
        assert checkpoint.load(files.join(finished, point["checkpoint"])).slimfront.widths


@pytest.mark.parametrize(
    ("argv", "leaves"),
    [
        (["frontier"], "frontier.parquet"),
        (["report"], "report.html"),
        (["export", "--format=csv"], "trials.csv"),
        (["compare"], "comparison.parquet"),
    ],
)
def test_commands_read_and_write_there(finished: str, argv: list[str], leaves: str) -> None:
    if argv[0] not in cli.COMMANDS:
        pytest.skip(f"there is no command {argv[0]} yet")
    assert cli.main([argv[0], finished, *argv[1:]]) == 0
    assert objects(finished)[leaves] > 0


def test_runs_side_by_side_do_not_mix_and_go_on(finished: str, bucket: str) -> None:
    """The neighbour's name begins with this one's: prefixes are no folders."""
    before = objects(finished)
    neighbour = bucket.format("runs/one-more")
    search(neighbour, "--trials=2", "--seed=1", "--search.final_seeds=0")
    assert objects(finished) == before
    first = {row.trial_id: row for row in Ledger(neighbour).rows()}
    assert len(first) == 2
    search(neighbour, "--trials=3", "--seed=1", "--search.final_seeds=0")
    second = {row.trial_id: row for row in Ledger(neighbour).rows()}
    assert len(second) == 3
    assert first.items() <= second.items()
    assert objects(finished) == before


def test_images_and_weights_come_from_there_and_are_cached(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path))
    folder = bucket.format("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        rows = []
        for i in range(count):
            sink = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(sink, "PNG")
            rows.append({"img": {"bytes": sink.getvalue()}, "label": i % 5})
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        files.write(files.join(folder, f"{split}-0.parquet"), sink.getvalue())
    args = {"num_classes": 5, "in_channels": 3}
    weights = files.join(folder, "weights.safetensors")
    write_tensors(weights, dict(resolve("digits", args).state_dict()), {})
    images = ["--data.name=parquet", f"--data.root={folder}", "--data.image_size=8"]
    config = configuration.load(["digits", *images, f"--model.weights={weights}"])
    base = base_model.prepare(config, say=lambda text: None)
    assert base.info.classes == 5
    cached = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(cached) == 4, "pixels and labels of two splits"
    again = splits.load(config.data, config.seed)
    assert len(again.train) + len(again.val) == 60
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == cached


@pytest.mark.usefixtures("ray_local")
def test_no_access_is_one_line_before_anything_runs(bucket: str) -> None:
    absent = bucket.format("x").replace("://store/", "://absent/")
    with pytest.raises(UserError, match=r"no bucket absent.*make it") as caught:
        search(absent, "--trials=2", "--base.epochs=0.05")
    assert "\n" not in str(caught.value)
