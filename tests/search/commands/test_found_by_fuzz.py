"""What the long fuzz found: runs whose record or rows lack what they mostly have, endless names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from search.cli import main
from search.storage.ledger import Ledger
from tests.search.commands.refusal import refuse
from tests.search.runs import make_rows, make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(make_run(tmp_path / "run", make_rows(5)))


def lack(run: Path, key: str) -> None:
    record = json.loads((run / "run.json").read_text())
    del record[key]
    (run / "run.json").write_text(json.dumps(record))


def test_a_frontier_is_shown_where_the_bases_macs_are_lost(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lack(run, "base_macs")
    lack(run, "objective")
    assert main(["frontier", str(run), "--knee"]) == 0
    assert "of base" not in capsys.readouterr().out


def test_optuna_is_refused_where_the_bases_macs_are_lost(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lack(run, "base_macs")
    assert "lacks base_macs" in refuse(["export", str(run), "--format", "optuna"], capsys)


def test_a_complete_row_without_its_score_is_no_success_for_optuna(run: Path) -> None:
    row = Ledger(run).rows()[1]
    Ledger(run).write(replace(row, score_val=None), replace=True)
    assert main(["export", str(run), "--format", "optuna"]) == 0
    assert (run / "optuna.journal").is_file()


@pytest.mark.parametrize("key", ["data.root", "model.weights", "search.warm_start"])
def test_names_that_no_system_takes_are_one_line(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["search", "--model.name", "digits", f"--{key}", "y" * 20_000]
    assert key in refuse(argv, capsys)


@pytest.mark.parametrize("key", ["metric", "objective"])
@pytest.mark.parametrize("value", ["an evil value", [1], 3, {"name": 1}])
def test_a_metric_or_an_objective_that_is_none_is_named(
    key: str, value: object, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {key: value}))
    assert f"{key} is missing or no such value" in refuse(["frontier", str(run)], capsys)
