"""One driver on a run: who finds another's file looks whether it changes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from search import lease, storage


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> storage.Location:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "STALE_S", 1.0)
    return storage.open_uri(tmp_path / "run")


def left_behind(run: storage.Location, **driver: Any) -> None:
    found = {"token": "theirs", "host": platform.node(), "pid": os.getpid(), "beat": 3} | driver
    storage.write_atomic(run / lease.FILE, json.dumps(found).encode())


def test_it_is_there_while_held_and_renewed_and_gone_afterwards(run: storage.Location) -> None:
    with lease.hold(run, print):
        first = lease._read(run / lease.FILE)
        threading.Event().wait(0.5)
        later = lease._read(run / lease.FILE)
    assert first and later and first["token"] == later["token"]
    assert later["beat"] > first["beat"]
    assert not storage.exists(run / lease.FILE)


def test_a_living_driver_is_not_disturbed(run: storage.Location) -> None:
    with lease.hold(run, print):
        with pytest.raises(UserError, match="is at work on this run"), lease.hold(run, print):
            pass
        assert storage.exists(run / lease.FILE), "its file is its own"


def test_a_driver_that_ended_here_is_not_waited_for(run: storage.Location) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left_behind(run, pid=ended.pid)
    said: list[str] = []
    with lease.hold(run, said.append):
        assert not said


@pytest.mark.parametrize("driver", [{"host": "elsewhere"}, {}, {"pid": "?"}])
def test_one_of_which_nothing_is_heard_is_followed(
    run: storage.Location, driver: dict[str, Any]
) -> None:
    """Of another machine; of this one, by a number that another process has now; damaged."""
    left_behind(run, **driver)
    said: list[str] = []
    with lease.hold(run, said.append):
        assert lease._read(run / lease.FILE)["token"] != "theirs"  # type: ignore[index]
    assert len(said) == 1 and "looking for up to 1 s" in said[0]


def test_one_that_stood_still_does_not_take_the_run_back(run: storage.Location) -> None:
    with lease.hold(run, print):
        left_behind(run)
        threading.Event().wait(0.3)
        assert lease._read(run / lease.FILE)["token"] == "theirs"  # type: ignore[index]
    assert storage.exists(run / lease.FILE), "the other's file is not removed"


def test_a_store_that_does_not_answer_for_a_while_ends_nothing(
    run: storage.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = lease._read, threading.Event()

    def flaky(place: storage.Location) -> Any:
        if threading.current_thread() is not threading.main_thread() and not refused.is_set():
            refused.set()
            raise UserError("no answer")
        return real(place)

    with lease.hold(run, print):
        monkeypatch.setattr(lease, "_read", flaky)
        assert refused.wait(5)
        before = real(run / lease.FILE)
        threading.Event().wait(0.5)
        assert real(run / lease.FILE)["beat"] > before["beat"]  # type: ignore[index]
