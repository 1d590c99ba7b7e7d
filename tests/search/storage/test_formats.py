"""Runs of another version, or damaged: refused or read, never changed by who only reads."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search.cli import main
from search.storage import checks, results
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
CASES = 80
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


WRONG: list[Any] = [None, -1, 1e308, 2**80, "x", "", [], {}, [[1]], {"a": []}, True, "\ud800"]


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in nested JSON."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += _paths(value, (*path, key))
    return found


def _damage(text: str, rng: random.Random) -> str:
    """JSON with one thing retyped, removed or made huge."""
    tree = json.loads(text)
    *way, last = rng.choice(_paths(tree))
    place = tree
    for key in way:
        place = place[key]
    if rng.random() < 0.3:
        del place[last]
    else:
        place[last] = rng.choice(WRONG)
    return json.dumps(tree)


def _damage_table(file: Path, rng: random.Random) -> None:
    table = pq.read_table(file)
    i = rng.randrange(table.num_columns)
    name = table.column_names[i]
    if rng.random() < 0.3:
        table = table.drop_columns([name])
    else:
        value = rng.choice([None, -1, 2**62, float("nan"), "x", [], [1.5], True, b"\xff"])
        table = table.set_column(i, name, pa.array([value] * len(table)))
    pq.write_table(table, file)


def test_finding_7_7_damage_of_any_kind_is_one_line_or_none(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeded damage to record, rows and tables: exit 0 or 2, no traceback, nothing renamed."""
    rng = random.Random(7)
    commands = [
        ["frontier", "RUN"],
        ["frontier", "RUN", "--knee", "--json"],
        ["report", "RUN"],
        ["export", "RUN", "--format", "csv"],
        ["export", "RUN", "--format", "parquet"],
    ]
    for case in range(CASES):
        folder = tmp_path / "case"
        shutil.copytree(run, folder)
        target = rng.choice(["run.json", "row", "frontier.parquet"])
        if target == "frontier.parquet":
            _damage_table(folder / target, rng)
        else:
            rows = sorted((folder / "trials").glob("*.json"))
            file = folder / target if target == "run.json" else rng.choice(rows)
            file.write_text(_damage(file.read_text(), rng))
        names = set(os.listdir(folder / "trials"))
        argv = rng.choice(commands)
        code = call(argv, folder)
        captured = capsys.readouterr()
        what = f"case {case}: {target} {argv}: {captured.err}"
        assert code in (0, 2), what
        assert "Traceback" not in captured.err, what
        assert code == 0 or captured.err.splitlines()[-1].startswith("slimfront: "), what
        assert set(os.listdir(folder / "trials")) == names, what
        shutil.rmtree(folder)


def test_a_run_with_the_columns_names_of_old_reads_as_it_did(run: Path) -> None:
    """Until scores were named by the task's metric they were called top1_…, in every file."""
    rows, found = Ledger(run).rows(), results.read(str(run))
    table = pq.read_table(run / "frontier.parquet")
    assert table.schema.field("score_test_mean").metadata[b"metric"] == b"top-1"
    old = {new: name for name, new in checks.RENAMED.items()}
    pq.write_table(
        table.rename_columns([old.get(name, name) for name in table.column_names]),
        run / "frontier.parquet",
    )
    for file in (run / "trials").iterdir():
        row = json.loads(file.read_text())
        file.write_text(json.dumps({old.get(name, name): value for name, value in row.items()}))
    record = json.loads((run / "run.json").read_text())
    keys = {new: name for name, new in checks.RENAMED_KEYS.items()}
    older = {keys.get(name, name): value for name, value in record.items()}
    assert older.keys() - record.keys() == {"base_top1_val", "base_top1_test"}
    (run / "run.json").write_text(json.dumps(older))
    assert "top1_recalibrated" in row or "top1_val" in file.read_text()
    assert Ledger(run).rows() == rows
    again = results.read(str(run))
    assert again.points == found.points and again.rows == found.rows
    assert again.record == found.record
    Ledger(run).compact()
    assert "score_repaired" in pq.read_table(run / "trials.parquet").column_names
