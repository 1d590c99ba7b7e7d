"""Runs of another version, or damaged: refused or read, never changed by who only reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.cli import main
from search.storage.ledger import Ledger
from search.study.study import Study
from search.study.width_space import WidthSpace
from tests.search.runs import COST, GRAPH, LATTICE, make_rows, make_run

READERS = [
    ["frontier", "RUN"],
    ["report", "RUN"],
    ["export", "RUN", "--format", "csv"],
    ["export", "RUN", "--latency"],
    ["compare", "RUN"],
    ["search", "digits", "--out", "RUN"],
    ["search", "digits", "--search.warm_start", "RUN", "--out", "NEW"],
]
IDS = ["frontier", "report", "csv", "latency", "compare", "search", "warm start"]


def call(argv: list[str], run: Path) -> int:
    words = {"RUN": str(run), "NEW": str(run.parent / "new")}
    return main([words.get(word, word) for word in argv])


def content(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(make_run(tmp_path / "run", make_rows(5)))


def rewrite(run: Path, **changes: Any) -> None:
    file = run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("argv", READERS, ids=IDS)
@pytest.mark.parametrize("version", [99, None, "1"])
def test_finding_7_2_an_unknown_format_is_refused(
    argv: list[str], version: object, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run, format=version)
    before = content(run)
    assert call(argv, run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"has format {version!r}, this slimfront reads 1" in line
    assert content(run) == before


@pytest.mark.parametrize("argv", READERS[:3], ids=IDS[:3])
def test_finding_7_2_readers_keep_rows_with_more_columns(argv: list[str], run: Path) -> None:
    for file in (run / "trials").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"energy_j": 3.5}))
    before = content(run / "trials")
    assert call(argv, run) == 0
    assert content(run / "trials") == before
    assert len(Ledger(run).rows()) == 5


@pytest.mark.parametrize("argv", READERS[:3], ids=IDS[:3])
def test_finding_7_2_readers_rename_nothing(argv: list[str], run: Path) -> None:
    next((run / "trials").glob("00002*.json")).write_text("{")
    before = content(run / "trials")
    assert call(argv, run) == 0
    assert content(run / "trials") == before


def test_finding_7_2_a_search_keeps_rows_with_more_columns(run: Path) -> None:
    """What a newer version wrote is not trained again."""
    for file in (run / "trials").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"energy_j": 3.5}))
    before = content(run / "trials")
    study = Study(WidthSpace(GRAPH, COST, LATTICE), Ledger(run), COST, LATTICE)
    assert study.finished == 5
    assert content(run / "trials") == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "is no record of a search"),
        ("[]", "is no record of a search"),
        ("[" * 100_000, "is damaged"),
        ('{"config": {', "is damaged"),
        ("", "is damaged"),
        ('{"config": 3, "format": 1}', "is no record of a search"),
    ],
)
@pytest.mark.parametrize("argv", READERS, ids=IDS)
def test_finding_7_7_a_damaged_record_is_one_line_everywhere(
    argv: list[str], text: str, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "run.json").write_text(text)
    assert call(argv, run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
