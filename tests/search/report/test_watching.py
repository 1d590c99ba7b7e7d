"""Watching a run from its folder alone, and what its driver writes for that."""

from __future__ import annotations

import json
import threading
import urllib.request
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from search import cli
from search.backend.progress import Progress
from search.commands import watch
from search.pareto import reference_point
from search.report import watching
from search.storage import Ledger, live
from search.storage import files as storage
from search.storage.row import Outcome
from search.study.study import Study
from search.study.width_space import WidthSpace
from tests.search import runs


@pytest.fixture
def place(tmp_path: Path) -> str:
    first, *rows = runs.make_rows(20)
    rows[3] = runs.failed(rows[3], "out of memory")
    rows[4] = replace(runs.failed(rows[4], "rank 3 of 5", status="stopped"), epochs=1.0)
    found = runs.make_run(tmp_path / "run", [first, *rows], status="running")
    trial = live.Running("00020-abc", runs.COST.base_macs // 2, 1.0, 0.875, 12.0)
    live.write(storage.open_uri(found), live.Live(3, 32, 20, 120.0, (trial,)))
    return found


def test_a_running_search_is_shown_from_its_folder(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", place, "--once"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("20/32 trials, 1 running, 1 failed, 1 stopped", "about 2 min left", "87.50"):
        assert words in shown, shown
    assert "1 failed: out of memory" in shown and "1 stopped after 1 epochs" in shown
    assert "more trials would probably add" in shown
    assert cli.main(["watch", place, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["live"]["running"][0]["trial"] == "00020-abc" and told["status"] == "running"
    macs = [point["macs"] for point in told["frontier"]]
    assert macs == sorted(macs) and told["hypervolume"] > 0.5


def test_watching_ends_with_the_run(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((Path(place) / "run.json").read_text())
    (Path(place) / "run.json").write_text(json.dumps(record | {"status": "complete"}))
    assert cli.main(["watch", place]) == 0
    shown = capsys.readouterr().out
    assert "complete" in shown and "00020-abc" not in shown


def test_a_trial_is_read_once_and_a_failed_one_again(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watching.Watcher(place)
    before = watcher.look()
    read: list[str] = []
    plain = storage.read_bytes
    monkeypatch.setattr(
        storage, "read_bytes", lambda file: (read.append(file.name), plain(file))[1]
    )
    assert watcher.look().rows == before.rows
    failed = [row for row in before.rows if row.status == "failed"]
    trials = [name for name in read if name not in ("run.json", "live.json")]
    assert trials == [f"{row.trial_id}.json" for row in failed]
    Ledger(place).write(replace(failed[0], status="complete", score_val=0.9), replace=True)
    assert not [row for row in watcher.look().rows if row.status == "failed"]


def test_a_driver_that_is_silent_is_named(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(watching.time, "monotonic", lambda: clock.now)
    watcher = watching.Watcher(place)
    watcher.look()
    clock.now = 90.0
    assert "no sign of its driver for 90 s" in watcher.look().headline()
    live.write(storage.open_uri(place), live.Live(4, 32, 20, 60.0))
    assert "about 60 s left" in watcher.look().headline()
    (Path(place) / live.FILE).write_text('{"beat": [')
    assert "20/" in watcher.look().headline(), "a damaged state is none"


def test_the_page_refreshes_itself_until_the_run_has_ended(place: str) -> None:
    view = watching.Watcher(place).look()
    shown = watching.live_page(view, 5.0)
    assert '<meta http-equiv="refresh" content="5">' in shown and "<circle" in shown
    assert "00020-abc" in shown and "<script" not in shown
    over = watching.View(place, view.record | {"status": "complete"}, view.rows, None, 0.0)
    assert "http-equiv" not in watching.live_page(over, 5.0)


def test_the_page_is_served(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Server(ThreadingHTTPServer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(watch, "ThreadingHTTPServer", Server)
    watcher = watching.Watcher(place)
    serving = threading.Thread(
        target=watch.serve, args=(watcher, 0, 5.0, Console(quiet=True)), daemon=True
    )
    serving.start()
    while not made:
        serving.join(0.01)
    host, port = made[0].server_address
    assert host == "127.0.0.1"
    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=20) as answer:
        assert b"20/32 trials" in answer.read()
    made[0].shutdown()
    serving.join(5)


@pytest.mark.parametrize(("flags", "words"), [(["--every", "0"], "above 0"), ([], "no run.json")])
def test_bad_input_is_one_line(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert cli.main(["watch", place if flags else str(tmp_path / "nothing"), *flags]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_the_driver_writes_what_runs(tmp_path: Path) -> None:
    study = Study(WidthSpace(runs.GRAPH, runs.COST, runs.LATTICE), Ledger(tmp_path), *PARTS)
    first, second = study.ask(), study.ask()
    assert first is not None and second is not None
    run = storage.open_uri(tmp_path)
    reference = reference_point(runs.COST.base_macs, 10)
    progress = Progress(
        study, 10, reference, Console(quiet=True), run, lambda rows, start: 18.0 if rows else None
    )
    report = {"widths": list(second.widths or ()), "epochs": 1.0, "score_val": 0.5}
    progress.on_trial_result(0, [], SimpleNamespace(config=second.to_config()), report)
    progress.on_step_end(0, [])
    now = live.read(run)
    assert now is not None and [trial.trial for trial in now.running] == [
        first.trial_id,
        second.trial_id,
    ]
    assert (now.running[1].epochs, now.running[1].score) == (1.0, 0.5)
    assert now.running[0].score is None and now.seconds_left is None
    study.tell(second.trial_id, Outcome(status="complete", epochs=1.0, wall_s=2.0, score_val=0.5))
    progress.written = float("-inf")
    progress.on_step_end(1, [])
    later = live.read(run)
    assert later is not None and later.beat > now.beat
    assert later.finished == 1 and len(later.running) == 1 and later.seconds_left == 18


PARTS = (runs.COST, runs.LATTICE)
