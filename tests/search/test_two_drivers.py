"""Two searches on one run, the first frozen past its lease: it stops, and writes nothing more."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search.storage.ledger import Ledger

PATIENCE_S = 600.0  # on a machine with much else to do
STALE_S = 8.0
BEGIN = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from search.storage import lock; lock.RENEW_S = 0.5; lock.STALE_S = float(sys.argv.pop(1));"
    "from search.cli import entry; entry()"
)
FLAGS = ["--base.epochs=1", "--finetune.epochs=0.1", "--search.final_seeds=1"]


@contextmanager
def driver(out: Path, trials: int) -> Iterator[subprocess.Popen[str]]:
    """A search in a session of its own, with a short lease."""
    words = ["search", "digits", f"--out={out}", f"--trials={trials}", *FLAGS]
    search = subprocess.Popen(
        [sys.executable, "-c", BEGIN, str(STALE_S), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield search
    finally:
        search.kill()  # its Ray goes with it
        search.communicate()


def wait(ready: Callable[[], bool], *alive: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < until
        assert all(search.poll() is None for search in alive), "ended before its time"
        time.sleep(0.1)


def count(out: Path) -> int:
    return len(list(out.glob("trials/*.json")))


def content(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def thawed(first: subprocess.Popen[str]) -> str:
    """What it says at its end, which comes at once."""
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 2, errors
    assert "Traceback" not in errors
    return errors.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="sends SIGSTOP to sessions of their own")
@pytest.mark.nightly
def test_finding_7_8_a_frozen_driver_stops_when_it_comes_back(tmp_path: Path) -> None:
    """While its follower drives, and, frozen once more, after another has ended the run."""
    out, trials = tmp_path / "run", 10
    with driver(out, trials) as first:
        wait(lambda: count(out) >= 2, first)
        first.send_signal(signal.SIGSTOP)
        with driver(out, trials) as second:
            before = count(out)
            wait(lambda: count(out) >= before + 2, second)
            line = thawed(first)
            assert f"process {second.pid} on" in line and "it goes on there" in line
            second.send_signal(signal.SIGSTOP)
            with driver(out, trials) as third:
                _, errors = third.communicate(timeout=PATIENCE_S)
                assert third.returncode == 0, errors
            before_end = content(out)
            assert "another process has taken over this run" in thawed(second)
            assert content(out) == before_end, "who lost the run writes nothing more"
    tried = Counter(row.arch_hash for row in Ledger(out).rows() if row.status != "infeasible")
    assert sum(tried.values()) == trials and max(tried.values()) == 1, tried
