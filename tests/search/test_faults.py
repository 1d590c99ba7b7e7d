"""The fault drill: a driver killed twice, over trials that fail in all known ways."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from search import base as base_model
from search import cluster, record, runner, storage
from search.ledger import Ledger
from search.study import Study
from tests.search.drill import FAILS, FAULTS, TIMEOUT_S, TRIALS, expected, places, settings
from tests.search.spaces import network
from tests.search.test_study import assert_study_is_the_ledger

ROOT = Path(__file__).parents[2]
REASONS = {
    "raise": "ValueError: broken on purpose",
    "nan": "no finite accuracy",
    "memory": "MemoryError",
    "hang": f"exceeded search.trial_timeout_s, {TIMEOUT_S:g} s",
    "killed": "the trial's worker failed: The actor died",
    "memory once": "out of memory; ran with batch 32 instead of 64",
    "killed once": "",
}


def of_ray(temp: str) -> list[int]:
    """Processes whose command line names Ray's temporary folder, zombies left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if temp.encode() in line and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


@pytest.fixture
def temp() -> Iterator[str]:
    """A folder of Ray's own; whatever of it still runs at the end is killed, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="sfd-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield name
        for process in of_ray(name):
            os.kill(process, signal.SIGKILL)


def start(out: Path, marks: Path, temp: str) -> subprocess.Popen[bytes]:
    marks.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.search.drill", str(out), str(marks), temp]
    with (marks.parent / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def wait_for(what: str, done: object, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.05)


def rows_on_disk(out: Path) -> int:
    return len(list((out / "trials").glob("*.json"))) if out.exists() else 0


@pytest.mark.slow
def test_drill(tmp_path: Path, temp: str) -> None:
    out, marks = tmp_path / "run", tmp_path / "marks"
    chance = random.Random()
    print("seed", seed := chance.randrange(10**6))
    chance.seed(seed)
    for part in (0, 1):
        driver = start(out, marks, temp)
        wanted = rows_on_disk(out) + chance.randrange(part, 4)

        def done(wanted: int = wanted, driver: subprocess.Popen[bytes] = driver) -> bool:
            return rows_on_disk(out) >= wanted or driver.poll() is not None

        wait_for(f"row {wanted}", done)
        time.sleep(4 * chance.random())
        driver.kill()
        driver.wait()
        # what belonged to the dead driver's Ray goes with it: drivers that die do not pile up
        wait_for("the end of Ray's processes", lambda: not of_ray(temp), 60)
    survived = {row.trial_id: row for row in Ledger(out).rows()}
    assert start(out, marks, temp).wait(300) == 0, (tmp_path / "log").read_text()[-3000:]

    rows = Ledger(out).rows()
    assert len(rows) == TRIALS and len({row.arch_hash for row in rows}) == TRIALS
    assert survived == {row.trial_id: row for row in rows if row.trial_id in survived}
    graph, _, _ = network("digits")
    study, order = rebuilt(out)
    met = []
    for row in rows:
        fault = FAULTS.get(order[row.method, row.widths], "")
        met.append(fault)
        assert row.status == ("failed" if fault in FAILS else "complete"), row
        assert row.reason.startswith(REASONS.get(fault, "")) and "\n" not in row.reason, row
        assert row.reason or fault in ("", "killed once")
        if row.status == "complete":
            assert row.top1_val == expected(graph, row.widths)
    assert set(FAULTS.values()) <= set(met)

    # finished trials never ran again: no start of one after its row was written
    for row in rows:
        written = (out / "trials" / f"{row.trial_id}.json").stat().st_mtime_ns
        starts = [int(mark.suffix[1:]) for mark in marks.glob(f"{row.arch_hash}.*")]
        assert starts and max(starts) < written
    assert_study_is_the_ledger(study)
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "complete"

    calm = tmp_path / "calm"
    assert start(calm, tmp_path / "calm-marks", temp).wait(300) == 0
    columns = ["rank", "method", "widths", "macs", "top1_val"]
    tables = [pq.read_table(f / "frontier.parquet", columns=columns) for f in (out, calm)]
    assert tables[0].equals(tables[1]) and tables[0].num_rows >= 4
    statuses = [Counter((r.arch_hash, r.status) for r in Ledger(f).rows()) for f in (out, calm)]
    assert statuses[0] == statuses[1]


def rebuilt(out: Path) -> tuple[Study, dict[tuple[str, Any], int]]:
    """The study as a further session would begin with it, and the seeds' places."""
    config = settings(str(out))
    assert record.read(storage.open_uri(out)) is not None
    base = base_model.prepare(config, str(out / "base.safetensors"), say=lambda text: None)
    problem = base_model.problem(base.channel_graph(), config.search)
    study = runner.make_study(config, base, problem, cluster.Share(1, 0, 2))
    assert study.finished == TRIALS and not study.running
    assert np.isfinite([row.top1_val for row in study.rows if row.status == "complete"]).all()
    return study, places(config, base)
