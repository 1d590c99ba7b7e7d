"""Ctrl-C at the moment when Python drops it, and otherwise."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search import interrupt, runner
from search.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def hearing() -> Iterator[None]:
    """Whoever started the tests in the background had them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # the handler runs between two of these
        pass


class Dropper:
    """What Ray, gRPC and temporary folders have: a finaliser, in which an exception is ignored."""

    def __del__(self) -> None:
        press()


def drop(*arguments: Any, **options: Any) -> None:
    Dropper()


def test_what_python_drops_is_known() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupt.remembered():
        interrupt.check()
        drop()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert signal.getsignal(signal.SIGINT) is before
    interrupt.check()  # a search from a notebook comes after
    with interrupt.remembered():
        interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_what_is_dropped_once_a_signal_has_come_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A finaliser that meets the interrupt, a thread of Ray's that its server left."""
    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda met: shown.append(met.exc_type))
    monkeypatch.setattr(threading, "excepthook", lambda met: shown.append(met.exc_type))

    def fail() -> None:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()

    with interrupt.remembered():
        fail()
        assert shown == [ZeroDivisionError]
        drop()
        fail()
        assert shown == [ZeroDivisionError]
    fail()
    assert len(shown) == 2


def test_an_error_after_a_signal_is_its_consequence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ray's processes had the signal too, and its driver meets their death first."""

    def fails(*arguments: Any, **options: Any) -> None:
        drop()
        raise ConnectionError("raylet died")

    monkeypatch.setattr(runner.cluster, "connect", fails)
    assert main(["search", f"--out={tmp_path}/run"]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("slimfront: interrupted")


def test_a_background_job_stays_deaf() -> None:
    """A shell starts one with SIGINT ignored: Ctrl-C is for what it waits for."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.remembered():
            press()
            interrupt.check()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_take_no_signals() -> None:
    failed: list[BaseException] = []

    def body() -> None:
        try:
            with interrupt.remembered():
                interrupt.check()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert not failed


def test_a_search_ends_where_its_interrupt_was_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner.cluster, "connect", drop)
    assert main(["search", f"--out={tmp_path}/run"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
