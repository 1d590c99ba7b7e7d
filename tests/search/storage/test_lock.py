"""One driver on a run: who finds another's file looks whether it changes."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from search import interrupt
from search.storage import files, lock
from search.storage.ledger import Ledger
from tests.search.storage.test_ledger import make_row


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> files.Location:
    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    monkeypatch.setattr(lock, "STALE_S", 1.0)
    return files.open_uri(tmp_path / "run")


def left_behind(run: files.Location, **driver: Any) -> None:
    found = {"token": "theirs", "host": platform.node(), "pid": os.getpid(), "beat": 3} | driver
    files.write(run / lock.FILE, json.dumps(found).encode())


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


def _is_overtaken(run: files.Location, ledger: Ledger, lease: lock.Lease) -> None:
    ledger.guard = lease.check
    assert ledger.write(make_row(0))
    left_behind(run, pid=1)
    threading.Event().wait(10)


def test_finding_7_8_a_driver_that_lost_its_run_is_interrupted_and_writes_no_row(
    run: files.Location,
) -> None:
    """As after SIGSTOP, another's start, and SIGCONT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ledger = Ledger(run.path)
    try:
        with pytest.raises(KeyboardInterrupt), lock.hold(run, print) as lease:
            _is_overtaken(run, ledger, lease)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(UserError, match=r"process 1 on .* has taken over this run"):
        ledger.write(make_row(1))
    assert len(ledger.rows()) == 1
    assert lock._read(run / lock.FILE) == {"token": "theirs", "host": platform.node()} | {
        "pid": 1,
        "beat": 3,
    }, "the other's file stays"


def test_finding_7_8_who_stood_still_looks_before_it_writes(
    run: files.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that renews may not have run yet."""
    monkeypatch.setattr(lock, "RENEW_S", 1000.0)
    with lock.hold(run, print) as lease:
        left_behind(run, pid=1)
        lease.check()  # a short while is no standing still
        threading.Event().wait(0.6)
        with pytest.raises(UserError, match="taken over"):
            lease.check()


def test_finding_7_8_a_run_that_another_has_driven_to_its_end_is_lost_too(
    run: files.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who followed has removed its file at the end."""
    monkeypatch.setattr(lock, "RENEW_S", 1000.0)
    with lock.hold(run, print) as lease:
        files.remove_file(run / lock.FILE)
        assert lease.renew(), "somebody tidied up: no standing still"
        files.remove_file(run / lock.FILE)
        threading.Event().wait(0.6)
        with pytest.raises(UserError, match=r"another process has taken over .* it has ended"):
            lease.check()
        assert not lease.renew()
    assert not files.exists(run / lock.FILE)


def test_finding_7_8_a_job_in_the_background_is_interrupted_too(run: files.Location) -> None:
    """A shell starts one with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with (
            interrupt.remembered(),
            pytest.raises(KeyboardInterrupt),
            lock.hold(run, print) as lease,
        ):
            _is_overtaken(run, Ledger(run.path), lease)
    finally:
        signal.signal(signal.SIGINT, before)
