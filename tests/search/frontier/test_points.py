"""The frontier on disk: what its tables name is there, and what was added to them stays."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from search import api
from search.backend.final import Member
from search.cli import main
from search.deploy import latencies
from search.frontier import points
from search.pareto import front
from search.report import charts, frontier_chart, tables
from search.storage import results
from search.storage.ledger import Ledger
from search.storage.row import Row
from tests.search.runs import COST, failed, make_rows, make_run, members


def frontier_of(rows: Sequence[Row]) -> list[Row]:
    return [rows[i] for i in front.front(front.points_of(rows))]


def found(run: Path) -> list[Member]:
    return members(run, frontier_of(Ledger(run).rows()))


@pytest.mark.parametrize("written", ["parquet", "csv", "python"])
def test_finding_7_12_tables_name_weights_that_are_there(written: str, tmp_path: Path) -> None:
    """Also where the frontier alone kept its weights, and the run was renamed since."""
    rows = make_rows(12)
    run = Path(make_run(tmp_path / "run", rows))
    for row in rows:  # as its trial wrote it
        place = run / "checkpoints" / f"{row.trial_id}.safetensors"
        place.touch()
        Ledger(run).write(replace(row, checkpoint=str(place)), replace=True)
    points.forget_checkpoints(str(run), Ledger(run).rows())
    Ledger(run).compact()
    run = run.rename(tmp_path / "renamed")
    if written == "python":
        named = api.open_run(str(run)).trials["checkpoint"].to_pylist()
    elif written == "csv":
        assert main(["export", str(run), "--format", "csv"]) == 0
        named = pyarrow.csv.read_csv(run / "trials.csv")["checkpoint"].to_pylist()
    else:
        named = pq.read_table(run / "trials.parquet")["checkpoint"].to_pylist()
    kept = sorted(f"checkpoints/{file.name}" for file in (run / "checkpoints").iterdir())
    assert sorted(filter(None, named)) == kept
    assert 0 < len(kept) < len(rows)
    members = pq.read_table(run / "frontier.parquet")["checkpoint"].to_pylist()
    assert all((run / name).is_file() for name in members)


def test_what_a_failed_trial_began_with_stays_for_its_next_try(tmp_path: Path) -> None:
    rows = make_rows(12)
    run = Path(make_run(tmp_path / "run", rows))
    for row in rows:
        (run / "checkpoints" / f"{row.trial_id}.safetensors").touch()
    dominated = [row for row in rows if row not in frontier_of(rows) and row.epochs]
    needed, gone = dominated[:2]
    late = failed(replace(rows[-1], trial_id="00099-x", parent=needed.trial_id), "no memory")
    points.forget_checkpoints(str(run), [*rows, late])
    kept = {file.stem for file in (run / "checkpoints").iterdir()}
    assert needed.trial_id in kept and gone.trial_id not in kept


@pytest.mark.parametrize("lost", ["points/001/model.safetensors", "frontier.csv", "frontier.png"])
def test_finding_7_12_latencies_stay_where_a_lost_file_is_made_anew(
    lost: str, tmp_path: Path
) -> None:
    place = make_run(tmp_path / "run", make_rows(8))
    run, record = Path(place), results.read_record(place)
    table = pq.read_table(run / "frontier.parquet")
    timed = [{"latency_ms_b1": 1.0 + i, "latency_device": "cpu"} for i in range(len(table))]
    base = {"latency_ms_b1": 9.0, "latency_device": "cpu"}
    latencies.store(place, latencies.add_columns(table, timed, base))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (run / lost).unlink()
    points.export(place, found(run), Ledger(place).rows(), record)
    assert (run / lost).is_file()
    for name in ("frontier.parquet", "frontier.csv", "points/001/model.safetensors"):
        assert (run / name).read_bytes() == before[run / name], name
    assert results.read_base_latency(place) == base


def test_finding_7_12_another_frontier_has_no_latencies_of_the_last(tmp_path: Path) -> None:
    place = make_run(tmp_path / "run", make_rows(8))
    table = pq.read_table(tmp_path / "run/frontier.parquet")
    timed = [{"latency_ms_b1": 1.0}] * len(table)
    latencies.store(place, latencies.add_columns(table, timed, timed[0]))
    fewer = found(Path(place))[1:]
    points.export(place, fewer, Ledger(place).rows(), results.read_record(place))
    after = pq.read_table(tmp_path / "run/frontier.parquet")
    assert len(after) == len(table) - 1 and "latency_ms_b1" not in after.column_names


def test_finding_7_12_no_method_has_pruned_the_base_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows(9, methods=("gain-curve", "peel"))
    rows[0] = replace(rows[0], method="gain-curve", score_val=0.999)
    place = make_run(tmp_path / "run", rows)
    run = results.read(place)
    assert run.points[-1]["macs"] == COST.base_macs and run.points[-1]["method"] == "gain-curve"
    cells = re.findall("<td[^>]*>(.*?)</td>", tables.frontier(run).rpartition("<tr>")[2])
    assert cells[-2] == "base"
    assert frontier_chart.about(run.points[-1], run).startswith(
        f"<b>point {run.points[-1]['rank']}</b>, base<br>"
    )
    said = json.dumps(frontier_chart.frontier(run))
    assert f"trial {rows[0].trial_id}, gain-curve" not in said
    bars = charts.methods(run)["data"]
    assert [bar["name"] for bar in bars] == ["of 8 trials", f"of {len(run.points) - 1} frontier"]
    assert main(["frontier", place]) == 0
    assert capsys.readouterr().out.split()[-1] == "base"
