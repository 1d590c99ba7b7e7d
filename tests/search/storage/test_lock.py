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
from search.storage import files, lock


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> files.Location:
    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    monkeypatch.setattr(lock, "STALE_S", 1.0)
    return files.open_uri(tmp_path / "run")


def left_behind(run: files.Location, **driver: Any) -> None:
    found = {"token": "theirs", "host": platform.node(), "pid": os.getpid(), "beat": 3} | driver
    files.write_atomic(run / lock.FILE, json.dumps(found).encode())


def test_it_is_there_while_held_and_renewed_and_gone_afterwards(run: files.Location) -> None:
    with lock.hold(run, print):
        first = lock._read(run / lock.FILE)
        threading.Event().wait(0.5)
        later = lock._read(run / lock.FILE)
    assert first and later and first["token"] == later["token"]
    assert later["beat"] > first["beat"]
    assert not files.exists(run / lock.FILE)


def test_a_living_driver_is_not_disturbed(run: files.Location) -> None:
    with lock.hold(run, print):
        with pytest.raises(UserError, match="is at work on this run"), lock.hold(run, print):
            pass
        assert files.exists(run / lock.FILE), "its file is its own"


def test_a_driver_that_ended_here_is_not_waited_for(run: files.Location) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left_behind(run, pid=ended.pid)
    said: list[str] = []
    with lock.hold(run, said.append):
        assert not said


@pytest.mark.parametrize("driver", [{"host": "elsewhere"}, {}, {"pid": "?"}])
def test_one_of_which_nothing_is_heard_is_followed(
    run: files.Location, driver: dict[str, Any]
) -> None:
    """Of another machine; of this one, by a number that another process has now; damaged."""
    left_behind(run, **driver)
    said: list[str] = []
    with lock.hold(run, said.append):
        assert lock._read(run / lock.FILE)["token"] != "theirs"  # type: ignore[index]
    assert len(said) == 1 and "looking for up to 1 s" in said[0]


def test_one_that_stood_still_does_not_take_the_run_back(run: files.Location) -> None:
    with lock.hold(run, print):
        left_behind(run)
        threading.Event().wait(0.3)
        assert lock._read(run / lock.FILE)["token"] == "theirs"  # type: ignore[index]
    assert files.exists(run / lock.FILE), "the other's file is not removed"


def test_a_store_that_does_not_answer_for_a_while_ends_nothing(
    run: files.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = lock._read, threading.Event()

    def flaky(place: files.Location) -> Any:
        if threading.current_thread() is not threading.main_thread() and not refused.is_set():
            refused.set()
            raise UserError("no answer")
        return real(place)

    with lock.hold(run, print):
        monkeypatch.setattr(lock, "_read", flaky)
        assert refused.wait(5)
        before = real(run / lock.FILE)
        threading.Event().wait(0.5)
        assert real(run / lock.FILE)["beat"] > before["beat"]  # type: ignore[index]
