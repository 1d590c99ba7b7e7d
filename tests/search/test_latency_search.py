"""A search by latency on real Ray: one table for all of it, members measured, a limit in MACs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pruning.errors import UserError
from search import runner
from search.backend import preflight
from search.config import loader as configuration
from search.config.schema import Config
from search.storage import record, results
from search.storage.ledger import Ledger
from search.trial import base_model, times

QUICK = [
    "digits",
    "--search.cost=latency",
    "--search.max_macs=80%",
    "--search.keep=conv1,layer1.0.*,layer2.0.*",  # two groups are left: few layers to time
    "--search.seeds=false",
    "--search.divisor=4",
    "--latency.batch=64",  # of one image little is the layers' own time, and noise would decide
    "--base.epochs=3",
    "--finetune.epochs=0.5",
    "--search.final_seeds=0",
]


def quick(out: Path, *flags: str) -> Config:
    return configuration.load([*QUICK, f"--out={out}", *flags])


@pytest.fixture(scope="module")
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, said: io.StringIO) -> Path:
    place = tmp_path_factory.mktemp("runs") / "run"
    runner.run(quick(place, "--trials=3"), Console(file=said, width=200))
    return place


@pytest.mark.usefixtures("ray_local")
def test_all_of_a_run_speaks_milliseconds(run: Path, said: io.StringIO) -> None:
    found = results.read(str(run))
    axis, base = found.axis, base_model.checkpoint.info(str(run / "base.safetensors"))
    assert (axis.name, axis.batch) == ("latency", 64) and axis.runtime.startswith("torch ")
    assert record.reference(found.record).cost == axis.base > 0
    table = json.loads((run / "latency.json").read_text())
    assert table["runtime"] == axis.runtime and len(base.widths) == 2
    rows = pq.read_table(run / "trials.parquet").to_pylist()
    assert all(row["predicted_ms"] > 0 for row in rows)
    assert max(row["macs"] for row in rows) <= 0.8 * found.record["base_macs"]
    frontier = pq.read_table(run / "frontier.parquet").to_pylist()
    predicted = [point["predicted_ms"] for point in frontier]
    assert predicted == sorted(predicted)
    measured = {row["trial_id"]: row["measured_ms"] for row in rows if row["measured_ms"]}
    assert {p["trial_id"]: p["measured_ms"] for p in frontier}.items() <= measured.items()
    assert all(point["measured_iqr_ms"] >= 0 for point in frontier)
    text = said.getvalue()
    assert "timing layers and slim networks with torch" in text
    assert f"measuring {len(frontier)} networks whole" in text


@pytest.mark.usefixtures("ray_local")
def test_going_on_uses_the_same_numbers(run: Path) -> None:
    before, rows = (run / "latency.json").read_bytes(), Ledger(run).rows()
    runner.run(quick(run, "--trials=4"), Console(file=io.StringIO()))
    assert (run / "latency.json").read_bytes() == before
    after = Ledger(run).rows()
    assert len(after) == 4 and [row.predicted_ms for row in after[:3]] == [
        row.predicted_ms for row in rows
    ]
    config = quick(run)
    graph = base_model.prepare(config, str(run / "base.safetensors")).channel_graph()
    foretold = times.read(before.decode(), graph)(np.array([row.widths for row in after]))
    np.testing.assert_allclose(foretold, [row.predicted_ms for row in after])


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--search.cost=macs", r"search\.cost \(latency there, macs here\)"),
        ("--latency.batch=8", r"latency\.batch"),
        ("--latency.runtime=onnxruntime", r"latency\.runtime"),
    ],
)
def test_another_cost_is_refused(run: Path, flag: str, key: str) -> None:
    with pytest.raises(UserError, match=f"another {key}"):
        runner.run(quick(run, "--trials=9", flag), Console(file=io.StringIO()))


@pytest.mark.usefixtures("ray_local")
def test_a_run_without_its_table_is_refused(run: Path, tmp_path: Path) -> None:
    hidden = (run / "latency.json").rename(tmp_path / "latency.json")
    with pytest.raises(UserError, match=r"latency\.json is missing or damaged"):
        runner.run(quick(run, "--trials=9"), Console(file=io.StringIO()))
    (run / "latency.json").write_text('{"format": 1, "lines": [["x", "y"]]}')
    with pytest.raises(UserError, match=r"latency\.json of the run is damaged"):
        runner.run(quick(run, "--trials=9"), Console(file=io.StringIO()))
    hidden.rename(run / "latency.json")


@pytest.mark.usefixtures("ray_local")
def test_where_nothing_can_be_measured_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no node of this Ray offers that resource"):
        preflight.check_clock(quick(tmp_path, "--latency.node=board"), 0)
    with pytest.raises(UserError, match="trials have no GPU here"):
        preflight.check_clock(quick(tmp_path, "--latency.runtime=torch:cuda"), 0)
    preflight.check_clock(configuration.load(["digits", "--latency.node=board"]), 0)
