"""What a session leaves in its run: finished, or put away; on real files, without Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.graph import Cost
from pruning.latency import Timing
from search.backend import TrialResources, base_task
from search.backend.final import Member
from search.config.schema import Config
from search.pareto import CostAxis, Metric
from search.session import Session
from search.storage import results
from search.storage.ledger import Ledger
from search.trial.final_training import Training
from tests.search import runs


@pytest.fixture
def begun(tmp_path: Path) -> Any:
    """A session over five trials, the last of them failed, and all that it says."""
    rows = runs.make_rows(5)
    rows[-1] = runs.failed(rows[-1], "ValueError: broken on purpose")
    source = Path(runs.make_run(tmp_path / "whole", rows))
    out = Path(runs.make_run(tmp_path / "run", rows, status="running"))
    weights = source / "points/000/model.safetensors"
    for row in rows:  # any weights do
        place = out / "checkpoints" / f"{row.trial_id}.safetensors"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(weights.read_bytes())
        if row.status == "complete":
            Ledger(out).write(replace(row, checkpoint=str(place)), replace=True)
    rows = Ledger(out).rows()
    axis = CostAxis("macs", runs.COST.base_macs)
    study: Any = SimpleNamespace(
        rows=rows, ledger=Ledger(out), finished=5, cost=runs.COST, axis=axis, close=lambda: None
    )
    base: Any = SimpleNamespace(
        metric=Metric(chance=0.1),
        info=SimpleNamespace(widths={g.name: g.channels for g in runs.GRAPH.groups}),
        val=0.95,
        test=0.94,
        notes=("a note",),
        axis=lambda search: axis,
    )
    said: list[str] = []
    record = results.read_record(str(out))
    share = TrialResources(1.0, 0.0, 2)
    return Session(replace(Config(), out=str(out)), base, study, share, record, said.append), said


def test_finish_leaves_the_final_frontier_and_names_the_failures(begun: Any) -> None:
    session, said = begun
    best = max(session.complete, key=lambda row: row.score_val)
    session.finish([Member(best, (Training(0, 0.9, 0.8, 1.0, 2.0, best.checkpoint),))])
    found = results.read(session.config.out)
    assert found.finished and [p["score_test_mean"] for p in found.points] == [0.8]
    assert found.record["cost"]["trials"] == 5 and found.record["frontier"] == 1
    assert Path(session.config.out, "report.html").is_file()
    assert any("1 trial failed: ValueError" in line for line in said)


def test_members_are_measured_once_and_their_rows_say_so(
    begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, said = begun
    session.study.cost = Cost(runs.GRAPH, latency=lambda widths: widths.sum(-1) / 100)
    session.record["base"]["latency"] = {
        "runtime": "x",
        "batch": 1,
        "predicted_ms": 1.0,
        "measured_ms": 1.1,
    }
    asked: list[int] = []

    def measure(config: Any, base: Any, rows: Any, share: Any) -> Any:
        asked.append(len(rows))
        return "y", [Timing(2.0, 0.1, 30)] * len(rows)

    monkeypatch.setattr(base_task, "measure", measure)
    best = max(session.complete, key=lambda row: row.score_val)
    for _ in range(2):
        row = next(row for row in session.study.rows if row.trial_id == best.trial_id)
        session.finish([Member(row, (Training(0, 0.9, 0.8, 1.0, 2.0, best.checkpoint),))])
    assert asked == [1]
    (point,) = results.read(session.config.out).points
    assert (point["measured_ms"], point["measured_iqr_ms"]) == (2.0, 0.1)
    kept = {row.trial_id: row.measured_ms for row in Ledger(session.config.out).rows()}
    assert kept[best.trial_id] == 2.0 and sum(ms is not None for ms in kept.values()) == 1
    assert "measured with y, foretold for x: these may differ" in said


def test_put_away_leaves_the_frontier_so_far(begun: Any) -> None:
    session, said = begun
    session.put_away()
    found = results.read(session.config.out)
    assert json.loads(Path(session.config.out, "run.json").read_text())["status"] == "interrupted"
    assert found.points and not found.finished and found.record["exported"]
    assert all(Path(p["checkpoint"]).is_file() for p in found.points)
    assert "goes on from 5 finished trials" in said[-1]


def test_introduction_says_what_is_searched_and_with_what(begun: Any) -> None:
    session, said = begun
    session.introduce()
    assert said[0] == "a note" and "top-1 val 95.00%, test 94.00%" in said[1]
    assert said[-2:] == ["going on after 5 finished trials", "2 trials at a time, each with 1 CPU"]


def test_finding_7_10_what_nine_trials_died_of_is_said_once(begun: Any) -> None:
    session, said = begun
    reason = "FloatingPointError: the loss is nan; lower the learning rate (lr 9.0)"
    source = session.study.rows[1]
    session.study.rows[:] = [
        *session.complete,
        *(runs.failed(replace(source, trial_id=f"{k:05d}-x"), reason) for k in range(20, 29)),
    ]
    session.put_away()
    session.finish([])
    assert sum("lower the learning rate" in line for line in said) == 1
    assert any(line.startswith(f"9 trials failed: {reason}; once that is mended") for line in said)
