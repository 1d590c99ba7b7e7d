"""Drivers that are interrupted, and the drill: one killed twice over trials that all fail."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from search.pareto import front
from search.report import watching
from search.storage import files, results
from search.storage.ledger import Ledger
from search.study.factory import make_study
from search.study.study import Study
from search.trial import base_model
from tests.search.drill import FAILS, FAULTS, TIMEOUT_S, TRIALS, expected, places, settings
from tests.search.spaces import network
from tests.search.study.studies import assert_study_is_the_ledger

ROOT = Path(__file__).parents[2]
PATIENCE_S = 900.0  # on a machine with much else to do
REASONS = {
    "raise": "ValueError: broken on purpose",
    "nan": "no finite score",
    "memory": "MemoryError",
    "hang": f"exceeded search.trial_timeout_s, {TIMEOUT_S:g} s",
    "killed": "the trial's worker failed: The actor died",
    "memory once": "out of memory; ran with batch 32 instead of 64",
    "killed once": "",
}


def interrupted(out: Path, moment: Callable[[], bool], *flags: str) -> tuple[int, str]:
    """Exit code and output of a real search of digits that gets Ctrl-C at a moment."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from search.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    quick = ["--trials=5", "--base.epochs=1", "--finetune.epochs=1", "--search.final_epochs=1"]
    driver = subprocess.Popen(
        [sys.executable, "-c", code, "search", "digits", f"--out={out}", *quick, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"RAY_ADDRESS": ""},
    )
    try:
        wait_for("the moment to interrupt", lambda: moment() or driver.poll() is not None)
        driver.send_signal(signal.SIGINT)
        output, _ = driver.communicate(timeout=PATIENCE_S)
    finally:
        driver.kill()
    return driver.returncode, output


@pytest.mark.slow
def test_ctrl_c_keeps_and_shows_what_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = interrupted(out, lambda: rows_on_disk(out) >= 2)
    assert code == 130 and "the same command goes on from" in said, said
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    rows = Ledger(out).rows()
    assert 2 <= len(rows) < 5 and {row.status for row in rows} == {"complete"}
    assert pq.read_table(out / "trials.parquet").num_rows == len(rows)
    frontier = pq.read_table(out / "frontier.parquet").to_pylist()
    known = [point["score_test_mean"] for point in frontier if point["epochs"] == 0]
    assert len(known) == sum(point["score_test_mean"] is not None for point in frontier)
    assert (out / "points/000/model.safetensors").is_file()

    finals = out / "finals"
    code, said = interrupted(out, lambda: finals.exists() and any(finals.glob("*.json")))
    assert code == 130 and "going on after" in said, said
    after = Ledger(out).rows()
    assert len(after) == 5 and after[: len(rows)] == rows
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    frontier = pq.read_table(out / "frontier.parquet").to_pylist()
    tested = [point for point in frontier if point["score_test_mean"] is not None]
    assert any(point["epochs"] for point in tested), "final trainings that were done count"


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


def finish(out: Path, marks: Path, temp: str) -> None:
    """Run to the end. Ray gives itself 30 s to start, too little on a busy machine: once more."""
    for _ in range(4):
        if start(out, marks, temp).wait(PATIENCE_S) == 0:
            return
        log = (marks.parent / "log").read_text()[-3000:]
        assert "timed out during startup" in log, log
    raise AssertionError("Ray did not start")


def wait_for(what: str, done: object, seconds: float = PATIENCE_S) -> None:
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
        wait_for("the end of Ray's processes", lambda: not of_ray(temp))
        if (out / "run.json").exists():  # whoever watches sees what there is, and changes nothing
            before = {row.trial_id: row for row in Ledger(out).rows()}
            view = watching.Watcher(str(out)).look()
            assert {row.trial_id: row for row in view.rows} == before and view.headline()
    survived = {row.trial_id: row for row in Ledger(out).rows()}
    finish(out, marks, temp)

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
            assert row.score_val == expected(graph, row.widths)
    assert set(FAULTS.values()) <= set(met)
    whole = {row.trial_id for row in rows if row.status == "complete"}
    parents = {row.parent for row in rows} - {""}
    assert parents and parents <= whole

    # finished trials never ran again: no start of one after its row was written
    for row in rows:
        written = (out / "trials" / f"{row.trial_id}.json").stat().st_mtime_ns
        starts = [int(mark.suffix[1:]) for mark in marks.glob(f"{row.arch_hash}.*")]
        assert starts and max(starts) < written
    assert_study_is_the_ledger(study)
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "complete"

    # the frontier is that of a search which nothing has disturbed: its trials' ends are known
    cost = study.cost
    calm = [
        (list(widths), int(cost.macs(np.array(widths))), expected(graph, widths))
        for (_, widths), place in order.items()
        if place < TRIALS and FAULTS.get(place) not in FAILS
    ]
    calm = [calm[i] for i in front.front([(macs, score) for _, macs, score in calm])]
    columns = ["widths", "macs", "score_val"]
    found = pq.read_table(out / "frontier.parquet", columns=columns).to_pylist()
    assert [tuple(point.values()) for point in found] == calm and len(calm) >= 4


def rebuilt(out: Path) -> tuple[Study, dict[tuple[str, Any], int]]:
    """The study as a further session would begin with it, and the seeds' places."""
    config = settings(str(out))
    assert results.find_record(files.open_uri(out)) is not None
    base = base_model.prepare(config, str(out / "base.safetensors"), say=lambda text: None)
    problem = base_model.problem(base.channel_graph(), config.search)
    study = make_study(config, base.states, problem, 2)
    assert study.finished == TRIALS and not study.running
    assert np.isfinite([row.score_val for row in study.rows if row.status == "complete"]).all()
    return study, places(config, base)
