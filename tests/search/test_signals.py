"""SIGINT, SIGTERM, SIGHUP and SIGKILL at any moment: codes as documented, nothing lost or left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from search.storage.ledger import Ledger

PATIENCE_S = 300.0  # on a machine with much else to do
GONE_S = float(os.environ.get("SLIMFRONT_GONE_S", "10"))  # more where much else runs
MOMENTS = 40  # of the drill
CODES = {
    signal.SIGINT: 130,
    signal.SIGTERM: 143,
    signal.SIGHUP: 129,
    signal.SIGKILL: -signal.SIGKILL,
}
FLAGS = ["--base.epochs=1", "--finetune.epochs=0.1", "--search.final_seeds=1"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def _left(leader: int, number: signal.Signals) -> list[str]:
    """What runs still; Ray's agents tell a dead server of its death, for a minute, unless ended."""
    found = _session(leader)
    return [line for line in found if number != signal.SIGKILL or not line.startswith(AGENTS)]


def _session(leader: int) -> list[str]:
    """Command lines of the living processes that `leader` and its children began."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            line = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(line)
    return found


def _rows(out: Path) -> Counter[str]:
    return Counter(row.arch_hash for row in Ledger(out).rows() if row.status != "infeasible")


def _start(out: Path, trials: int) -> subprocess.Popen[str]:
    """A search in a session of its own, that hears Ctrl-C wherever the tests were started."""
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from search.cli import entry; entry()"
    )
    flags = ["digits", f"--out={out}", f"--trials={trials}", *FLAGS]
    return subprocess.Popen(
        [sys.executable, "-c", script, "search", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _send(leader: int, number: signal.Signals, to: str) -> None:
    """To the driver alone, or to its group, as `timeout` and a terminal that is closed do."""
    (os.killpg if to == "group" else os.kill)(leader, number)


def _strike(
    out: Path, number: signal.Signals, trials: int, come: Callable[[], bool], to: str = "driver"
) -> None:
    """Begin or go on with a search, and signal once `come`; what must hold of its end."""
    before = _rows(out)
    search = _start(out, trials)
    until = time.monotonic() + PATIENCE_S
    while not come() and search.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    if search.poll() is None:
        _send(search.pid, number, to)
    _, errors = search.communicate(timeout=PATIENCE_S)
    ended, since = search.returncode == 0, time.monotonic()
    while (left := _left(search.pid, number)) and time.monotonic() < since + GONE_S:
        time.sleep(0.2)
    print(f"  {number.name}: exit {search.returncode}, gone {time.monotonic() - since:.1f} s later")
    assert ended or search.returncode == CODES[number], errors
    assert not left, f"{number.name}: {left}"
    assert before - _rows(out) == Counter(), "a finished trial was lost"
    if not ended and number != signal.SIGKILL:
        assert errors.splitlines()[-1].startswith("slimfront: interrupted"), errors
        assert not any(word in errors for word in ("Traceback", "stack trace", "*** ")), errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_finding_7_9_in_the_first_seconds(number: signal.Signals, tmp_path: Path) -> None:
    at = time.monotonic() + random.Random(int(number)).uniform(0.5, 8.0)
    _strike(tmp_path / "run", number, 4, lambda: time.monotonic() > at, "group")


def test_finding_7_9_while_trials_run(tmp_path: Path) -> None:
    """What is finished is put away, and the same command goes on from there."""
    out = tmp_path / "run"
    _strike(out, signal.SIGTERM, 200, lambda: len(list(out.glob("trials/*.json"))) > 1, "group")
    assert '"status": "interrupted"' in (out / "run.json").read_text()
    assert (out / "frontier.parquet").is_file()
    assert (out / "report.html").is_file()


def _moment(out: Path, delay: float, more: int) -> Callable[[], bool]:
    """After `delay` s, or as soon as so many more trials have ended."""
    at, count = time.monotonic() + delay, len(list(out.glob("trials/*.json"))) + more
    if more:
        return lambda: len(list(out.glob("trials/*.json"))) >= count
    return lambda: time.monotonic() > at


@pytest.mark.nightly
def test_finding_7_9_signals_at_random_moments(tmp_path: Path) -> None:
    """Forty strikes at one run; then it ends, with each trial once."""
    out, seed = tmp_path / "run", int(os.environ.get("SLIMFRONT_DRILL_SEED", "0"))
    rng = random.Random(seed)
    for k in range(MOMENTS):
        number, delay = rng.choice(list(CODES)), rng.uniform(0.2, 40.0)
        to = rng.choice(["driver", "group"])
        more = rng.randint(1, 4) if k % 2 else 0  # every other strike falls among the trials
        print(
            f"seed {seed}, strike {k}: {number.name} to {to} after {delay:.1f} s, {more} rows",
            flush=True,
        )
        _strike(out, number, 10_000, _moment(out, delay, more), to)
    rows = _rows(out)
    search = _start(out, sum(rows.values()) + 4)
    _, errors = search.communicate(timeout=4 * PATIENCE_S)
    assert search.returncode == 0, errors
    assert rows - _rows(out) == Counter()
    assert max(_rows(out).values()) == 1, "a trial ran twice"
