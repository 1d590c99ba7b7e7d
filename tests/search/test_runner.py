"""The main job on real Ray and the embedded data: its files, resume, extension, refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pruning.errors import UserError
from search import runner
from search.frontier import points
from search.pareto import front as pareto
from search.storage import record
from search.storage.ledger import Ledger
from search.storage.row import Row
from tests.search.quick import quick, quiet

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runner.run(quick(folder / "run", f"--resources.storage_path={folder}/logs"), quiet())
    return folder / "run"


def test_every_file_of_the_contract(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["reference_point"] == {"cost": record["base_macs"], "score": 0.1, "best": 1.0}
    assert len(list((finished / "trials").glob("*.json"))) == 7
    rows = pq.read_table(finished / "trials.parquet")
    assert rows.num_rows == 7
    frontier = pq.read_table(finished / "frontier.parquet").to_pylist()
    assert pyarrow.csv.read_csv(finished / "frontier.csv").num_rows == len(frontier)
    assert (finished / "frontier.png").read_bytes().startswith(b"\x89PNG")
    for rank, point in enumerate(frontier):
        assert point["rank"] == rank
        assert (finished / f"points/{rank:03d}/model.safetensors").is_file()
    assert [p["macs"] for p in frontier] == sorted(p["macs"] for p in frontier)
    means = [p["score_val_mean"] for p in frontier]
    assert means == sorted(means), "no point of the frontier is dominated"


def test_tensorboard_shows_the_trials(finished: Path) -> None:
    """Ray's own logger writes them; what TensorBoard would draw is what the ledger has."""
    logs = finished.parent / "logs" / "run"
    for row in Ledger(finished).rows():
        (events,) = (logs / row.trial_id).glob("events.out.tfevents.*")
        values = [v for v in scalars(events) if v.tag == "ray/tune/score_val"]
        assert values[-1].simple_value == pytest.approx(row.score_val, abs=1e-6)


def scalars(events: Path) -> list[Any]:
    """Values in a file of TensorBoard's: records of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = events.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        found += Event.FromString(data[12 : 12 + length]).summary.value
        data = data[16 + length :]
    return found


def test_rows_are_honest(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    rows = Ledger(finished).rows()
    base = next(row for row in rows if row.macs == record["base_macs"])
    assert (base.score_val, base.epochs) == (record["base_score_val"], 0.0)
    slim = [row for row in rows if row is not base]
    assert {row.status for row in rows} == {"complete"}
    assert all(row.epochs == pytest.approx(0.5, abs=0.05) for row in slim), "whole steps"
    assert all(row.finetune_s > 0 for row in slim)
    assert all(len(row.curve) == 1 for row in slim), "half an epoch is one report"
    better = {"tuned": lambda row: row.curve[0], "repaired": lambda row: row.score_repaired}
    assert all(row.score_val == better[row.state](row) for row in slim)
    assert all(row.score_val == max(row.curve[0], row.score_repaired) for row in slim)
    assert base.curve == ()
    assert all(row.macs <= row.proposal["asked"] for row in rows)
    assert len({row.arch_hash for row in rows}) == len(rows)


def test_a_point_gives_the_accuracy_of_its_row(finished: Path) -> None:
    """In a fresh process, from the file alone, on splits made from the run's record."""
    code = (
        "import json, sys, pruning\n"
        "from pruning.training.evaluation import evaluate\n"
        "from search.config import loader\n"
        "from search.data import splits as data\n"
        "record = json.load(open(sys.argv[1] + '/run.json'))\n"
        "settings = loader.from_dict(record['config'])\n"
        "splits = data.load(settings.data, settings.seed)\n"
        "model = pruning.load(sys.argv[1] + '/points/000/model.safetensors')\n"
        "print(evaluate(model, splits.val.batches(500)), evaluate(model, splits.test.batches(500)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished)], capture_output=True, text=True, check=True
    )
    val, test = map(float, done.stdout.split())
    point = pq.read_table(finished / "frontier.parquet").to_pylist()[0]
    assert val == pytest.approx(point["score_val"], abs=1e-9)
    assert test == pytest.approx(point["score_test"], abs=1e-9)


def test_extension_keeps_what_is_finished(finished: Path, tmp_path: Path) -> None:
    """Also of a run that was moved: where it was, nothing is left."""
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    before = {path.name: path.read_bytes() for path in (out / "trials").iterdir()}
    hidden = finished.rename(finished.with_name("hidden"))
    try:
        runner.run(quick(out, "--trials=9"), quiet())
    finally:
        hidden.rename(finished)
    after = {path.name: path.read_bytes() for path in (out / "trials").iterdir()}
    assert len(after) == 9
    assert all(after[name] == content for name, content in before.items())


def test_weights_stay_of_the_frontier_alone(finished: Path, tmp_path: Path) -> None:
    rows = [row for row in Ledger(finished).rows() if row.status == "complete"]
    assert _stored(finished) == _needed(rows)
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    worst = dataclasses.replace(next(row for row in rows if row.epochs), score_val=0.0)
    rows = [worst if row.trial_id == worst.trial_id else row for row in rows]
    points.forget_checkpoints(str(copy), rows)
    assert worst.trial_id not in _stored(copy)
    assert _stored(copy) == _needed(rows) & _stored(finished)


def _stored(run: Path) -> set[str]:
    return {path.stem for path in (run / "checkpoints").iterdir()}


def _needed(rows: list[Row]) -> set[str]:
    front = {rows[i].trial_id for i in pareto.front(pareto.points_of(rows))}
    return front | {row.trial_id for row in rows if not row.epochs}


def test_finished_run_is_not_run_again(finished: Path) -> None:
    """And what was added to it stays: exports beside the points, columns of the table."""
    console = quiet()
    times = {path: path.stat().st_mtime_ns for path in (finished / "finals").iterdir()}
    added = finished / "points" / "000" / "model.onnx"
    added.write_bytes(b"an export")
    table = pq.read_table(finished / "frontier.parquet")
    latencies = pa.array(np.arange(float(len(table))))
    pq.write_table(table.append_column("latency_ms_b1", latencies), finished / "frontier.parquet")
    runner.run(quick(finished), console)
    assert {path: path.stat().st_mtime_ns for path in (finished / "finals").iterdir()} == times
    assert "final trainings" not in console.file.getvalue()  # type: ignore[attr-defined]
    assert added.read_bytes() == b"an export"
    after = pq.read_table(finished / "frontier.parquet")
    assert after["latency_ms_b1"].to_pylist() == latencies.to_pylist()
    added.unlink()


def test_another_recipe_is_refused_by_name(finished: Path) -> None:
    with pytest.raises(UserError, match=r"another finetune\.lr"):
        runner.run(quick(finished, "--finetune.lr=0.01"), quiet())


def test_another_base_model_is_refused(finished: Path, tmp_path: Path) -> None:
    from pruning.models import write_tensors
    from pruning.models.registry import resolve

    weights = tmp_path / "weights.safetensors"
    write_tensors(
        weights, {k: v.contiguous() for k, v in resolve("digits").state_dict().items()}, {}
    )
    with pytest.raises(UserError, match=r"another model\.weights"):
        runner.run(quick(finished, f"--model.weights={weights}"), quiet())


def test_other_images_are_refused(finished: Path) -> None:
    found = json.loads((finished / "run.json").read_text())
    record.check_data(found, found["base"]["data"], quick(finished))
    with pytest.raises(UserError, match=r"other images than those of data\.root"):
        record.check_data(found, "of others", quick(finished))


def test_a_warm_start_from_another_network_is_refused(finished: Path, tmp_path: Path) -> None:
    found = json.loads((finished / "run.json").read_text())
    found["config"]["model"]["name"] = "resnet20"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text(json.dumps(found))
    asked = quick(tmp_path / "new", f"--search.warm_start={tmp_path}/other")
    with pytest.raises(UserError, match="searched resnet20, not digits"):
        runner.run(asked, quiet())
    assert not (tmp_path / "new").exists()


def test_same_seed_and_architecture_give_the_same_row(finished: Path, tmp_path: Path) -> None:
    """A second run with other neighbours in time: shared architectures have equal accuracies."""
    out = tmp_path / "again"
    config = dataclasses.replace(quick(out), trials=4)
    runner.run(config, quiet())
    first = {row.arch_hash: row for row in Ledger(finished).rows()}
    second = {row.arch_hash: row for row in Ledger(out).rows()}
    common = first.keys() & second.keys()
    assert len(common) >= 4
    for digest in common:
        for name in ("score_pruned", "score_repaired", "score_val", "seed"):
            np.testing.assert_allclose(
                getattr(first[digest], name), getattr(second[digest], name), atol=0.02
            )
