"""The frontier as commands show it, of runs that have ended and of others."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search.cli import main
from search.config.schema import Config
from search.storage.ledger import Ledger
from search.storage.row import Row
from tests.search.commands.refusal import refuse

RECORD = {"format": 1, "config": {}, "base_macs": 1_000_000}


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A run of four trials that has not ended: one dominated, one failed."""
    (tmp_path / "run.json").write_text(json.dumps(RECORD | {"status": "running"}))
    ledger = Ledger(tmp_path)
    results = ((200_000, 0.8), (500_000, 0.9), (600_000, 0.85), (100_000, None))
    for i, (macs, top1) in enumerate(results):
        status = "failed" if top1 is None else "complete"
        row = {"arch_hash": "a", "method": "uniform", "proposal": {}, "widths": (8, i + 1)}
        ledger.write(
            Row(
                trial_id=f"{i:05d}-a",
                macs=macs,
                params=macs // 10,
                score_val=top1,
                status=status,
                **row,
            )
        )
    return tmp_path


def test_frontier_of_a_run_that_has_not_ended(
    running: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["frontier", str(running)]) == 0
    text = " ".join(capsys.readouterr().out.split())  # the title takes two lines at some widths
    assert "so far" in text
    assert "20.0%" in text
    assert "80.00" in text
    assert "85.00" not in text
    assert main(["frontier", str(running), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finished"] is False
    assert [point["macs"] for point in found["points"]] == [200_000, 500_000]


def test_frontier_of_a_finished_run(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point = {
        "rank": 0,
        "trial_id": "0",
        "method": "uniform",
        "widths": [8, 1],
        "macs": 300_000,
        "params": 5000,
    }
    point |= {"score_val": 0.9, "score_test_mean": 0.875, "score_test_std": float("nan")}
    point |= {"checkpoint": "/was/elsewhere/points/000/model.safetensors"}
    pq.write_table(pa.Table.from_pylist([point]), running / "frontier.parquet")
    # being extended: the table is that of the shorter run
    assert main(["frontier", str(running), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 2
    (running / "run.json").write_text(json.dumps(RECORD | {"status": "complete"}))
    assert main(["frontier", str(running), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finished"] is True
    here = f"{running}/points/000/model.safetensors"
    assert found["points"] == [point | {"score_test_std": None, "checkpoint": here}]
    assert main(["frontier", str(running)]) == 0
    text = capsys.readouterr().out
    assert "87.50" in text
    assert "30.0%" in text


def test_damaged_frontier(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (running / "frontier.parquet").write_bytes(b"nonsense")
    (running / "run.json").write_text(json.dumps(RECORD | {"status": "complete"}))
    assert "is damaged" in refuse(["frontier", str(running)], capsys)


@pytest.mark.parametrize(("status", "code"), [("interrupted", 130), ("complete", 0)])
def test_search_runs_and_then_shows_the_frontier(
    status: str,
    code: int,
    running: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from search import runner

    def run(config: Config, console: object, given: object = None) -> str:
        assert config.trials == 5
        (running / "run.json").write_text(json.dumps(RECORD | {"status": status}))
        return config.out

    monkeypatch.setattr(runner, "run", run)
    assert main(["search", "--trials", "5", "--out", str(running)]) == code
    assert "2 points on the frontier" in " ".join(capsys.readouterr().out.split())
