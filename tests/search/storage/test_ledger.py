from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from dataclasses import replace

import pyarrow as pa
import pytest

from pruning.errors import UserError
from search.pareto import TOP1
from search.storage.ledger import Ledger, read_table
from search.storage.row import COLUMNS, Row, arch_hash, table_schema, trial_id


def make_row(number: int = 0, **changes: object) -> Row:
    digest = arch_hash("uniform", [8, 16 + number], {"epochs": 1})
    row = Row(
        trial_id=trial_id(number, digest),
        arch_hash=digest,
        method="uniform",
        proposal={"kind": "widths", "source": "sampler", "params": {"ratio": 0.1 + 0.2}},
        widths=(8, 16 + number),
        macs=2**40 + number,
        params=1000,
        score_pruned=0.1,
        score_val=1 / 3,
        epochs=2.5,
        status="complete",
        host="höst",
        started_at="2026-01-02T03:04:05.678901+00:00",
    )
    return replace(row, **changes)  # type: ignore[arg-type]


WRONG: list[dict[str, object]] = [
    {"macs": "abc"},
    {"macs": -1},
    {"macs": 2**70},
    {"macs": True},
    {"params": None},
    {"wall_s": None},
    {"score_val": "high"},
    {"curve": [0.1, "x"]},
    {"widths": [8, 2.5]},
    {"method": 3},
    {"reason": ["x"]},
    {"reason": "\ud800"},
    {"proposal": {"params": 3}},
    {"status": ["complete"]},
    {"started_at": "yesterday"},
]


@pytest.fixture(params=["path", "file-uri"])
def ledger(request: pytest.FixtureRequest, tmp_path) -> Ledger:
    return Ledger(tmp_path / "run" if request.param == "path" else (tmp_path / "run").as_uri())


def test_rows_come_back_equal_and_by_number(ledger):
    rows = [make_row(n) for n in (3, 0, 100_001, 12)]
    assert all(ledger.write(row) for row in rows)
    assert ledger.rows() == sorted(rows, key=lambda row: row.number)
    assert [row.number for row in ledger.rows()] == [0, 3, 12, 100_001]


def test_empty_ledger_has_no_rows_and_an_empty_table(ledger):
    assert ledger.rows() == []
    ledger.compact()
    assert read_table(ledger.run.path).schema == table_schema(COLUMNS, TOP1)


def test_a_trial_is_written_once(ledger):
    assert ledger.write(make_row(1))
    assert not ledger.write(make_row(1, score_val=0.9))
    assert ledger.rows() == [make_row(1)]


@pytest.mark.parametrize(
    "content",
    [
        make_row(5).to_json()[:-40],
        "",
        "[]",
        "null",
        '{"note": "foreign"}',
        make_row(5).to_json().replace("complete", "done"),
        make_row(5).to_json().replace("0.3333333333333333", "NaN"),
        make_row(6).to_json(),
        b"\xff\xfe\x00",
        *(json.dumps(json.loads(make_row(5).to_json()) | change) for change in WRONG),
        "[" * 100_000,
    ],
    ids=[
        *"truncated empty list null foreign status nan other-trial binary".split(),
        *("=".join(map(str, *change.items())) for change in WRONG),
        "deep",
    ],
)
def test_finding_7_7_a_damaged_file_is_set_aside_and_the_rest_read(ledger, content, caplog):
    ledger.write(make_row(1))
    ledger.write(make_row(2))
    damaged = f"{ledger.trials.path}/{make_row(5).trial_id}.json"
    with open(damaged, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    assert ledger.rows() == [make_row(1), make_row(2)]
    assert damaged in caplog.text
    assert os.path.exists(damaged), "who only reads changes nothing"
    assert ledger.rows(mend=True) == [make_row(1), make_row(2)]
    assert ".damaged" in caplog.text
    assert os.path.exists(damaged + ".damaged") and not os.path.exists(damaged)
    caplog.clear()
    assert ledger.rows() == [make_row(1), make_row(2)]
    assert not caplog.text
    assert ledger.write(make_row(5))  # and the trial can be run and written again


def test_unfinished_writes_are_no_rows(ledger):
    ledger.write(make_row(1))
    with open(f"{ledger.trials.path}/.00009-x.json.abc", "w") as file:
        file.write(make_row(9).to_json()[:20])
    assert ledger.rows() == [make_row(1)]


def test_table_has_the_contract_s_columns_and_types(ledger):
    rows = [make_row(0), make_row(1, score_val=None, status="failed", reason="OOM", started_at="")]
    for row in rows:
        ledger.write(row)
    ledger.compact()
    table = read_table(ledger.run.path)
    assert (
        table.column_names
        == (
            "trial_id arch_hash method proposal parent widths macs params predicted_ms measured_ms "
            "measured_iqr_ms score_pruned score_repaired "
            "score_val state curve epochs status reason seed prune_s finetune_s wall_s host device "
            "checkpoint started_at"
        ).split()
    )
    assert table.schema.field("widths").type == pa.list_(pa.int32())
    assert table.schema.field("started_at").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("macs").type == pa.int64()
    assert table.schema.field("wall_s").metadata == {b"unit": b"seconds"}
    first, second = table.to_pylist()
    assert first["started_at"].isoformat() == rows[0].started_at
    assert json.loads(first["proposal"]) == rows[0].proposal
    assert (second["score_val"], second["reason"], second["started_at"]) == (None, "OOM", None)
    assert [p.name for p in _files(ledger)] == ["trials", "trials.parquet"]


def test_unwritable_run_is_a_user_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file.*;"):
        Ledger(tmp_path / "file").write(make_row())


def test_full_disk_is_a_user_error_and_leaves_nothing(tmp_path):
    script = textwrap.dedent(
        """
        import sys, resource, signal, os
        from pruning.errors import UserError
        from search.storage.ledger import Ledger
        from search.storage.row import Row
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        row = Row.from_json(sys.stdin.read())
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # fails as a full disk does
        try:
            Ledger(sys.argv[1]).write(row)
        except UserError as error:
            print(error)
        print(os.listdir(sys.argv[1] + "/trials"))
        """
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        input=make_row().to_json(),
        capture_output=True,
        text=True,
    )
    message, left = done.stdout.splitlines()
    assert "cannot write" in message and str(tmp_path) in message
    assert left == "[]"


def test_unknown_store_is_a_user_error():
    with pytest.raises(UserError, match="nope://x"):
        Ledger("nope://x")


def test_hash_is_canonical():
    first = arch_hash("peel", [8, 16], {"epochs": 1, "lr": 0.1}, {"rho": 0.8})
    assert first == arch_hash("peel", (8, 16), {"lr": 0.1, "epochs": 1}, {"rho": 0.8})
    others = [
        arch_hash("cap", [8, 16], {"epochs": 1, "lr": 0.1}, {"rho": 0.8}),
        arch_hash("peel", [16, 8], {"epochs": 1, "lr": 0.1}, {"rho": 0.8}),
        arch_hash("peel", [81, 6], {"epochs": 1, "lr": 0.1}, {"rho": 0.8}),
        arch_hash("peel", [8, 16], {"epochs": 2, "lr": 0.1}, {"rho": 0.8}),
        arch_hash("peel", [8, 16], {"epochs": 1, "lr": 0.1}, {"rho": 0.7}),
        arch_hash("peel", [8, 16], {"epochs": 1, "lr": 0.1}),
        arch_hash("peel", None, {"epochs": 1, "lr": 0.1}, {"rho": 0.8}),
    ]
    assert len({first, *others}) == 8


def _files(ledger):
    from pathlib import Path

    return sorted(Path(ledger.run.path).iterdir())
