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
from contextlib import suppress
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


def _session(leader: int) -> dict[int, str]:
    """Command lines of the living processes that `leader` and its children began, by their ids."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            line = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        beside = f"guardian.py {leader} " in line  # in a session of its own
        if (int(fields[3]) == leader or beside) and fields[0] != "Z":
            found[int(entry.name)] = line
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
    """To the driver alone, to its group, as a closed terminal does, or to all, as scancel does."""
    if to != "all":
        (os.killpg if to == "group" else os.kill)(leader, number)
        return
    for pid in [leader, *(pid for pid in _session(leader) if pid != leader)]:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


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
    while (left := list(_session(search.pid).values())) and time.monotonic() < since + GONE_S:
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
    """What is finished is put away, and the same command goes on from there.

    The signal goes to all processes, as Slurm's does: Ray's die while its driver puts away.
    """
    out = tmp_path / "run"
    _strike(out, signal.SIGTERM, 200, lambda: len(list(out.glob("trials/*.json"))) > 1, "all")
    assert '"status": "interrupted"' in (out / "run.json").read_text()
    assert (out / "frontier.parquet").is_file()
    assert (out / "report.html").is_file()


CONNECT = """
import os, signal, sys, threading, time
import ray
from search import interrupt
from search.backend import cluster
from search.config import Config

def sooner(*args, **options):  # where Ray takes the signals for a second or more
    if sys.argv[1] == "inside":
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    return worker(*args, **options)

worker, ray._raylet.CoreWorker = ray._raylet.CoreWorker, sooner
interrupt.own_process()
with interrupt.remembered():
    cluster.connect(Config(), num_cpus=1)
    print("up", flush=True)
    time.sleep(60)
"""


def _connected(when: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONNECT, when],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_sigterm_while_ray_takes_the_signals_is_one_line() -> None:
    """Strike 24 of seed 0: a dump of the stack by handlers that Ray sets inside of its start."""
    driver = _connected("inside")
    said, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == CODES[signal.SIGTERM] and not said
    assert errors.splitlines()[-1] == "slimfront: interrupted"
    assert "***" not in errors


def test_nothing_is_left_of_a_driver_that_was_killed() -> None:
    """Ray's agents, which would tell a dead server of its death for a minute, and the guardian."""
    driver = _connected("later")
    assert driver.stdout is not None and driver.stdout.readline() == "up\n"
    there = set(_session(driver.pid))
    assert any("ray::" in line for line in _session(driver.pid).values())
    time.sleep(1.5)  # the guardian looks each second
    driver.kill()
    driver.communicate()
    since = time.monotonic()
    while (left := _session(driver.pid)) and time.monotonic() < since + GONE_S:
        time.sleep(0.2)
    print(f"{len(there)} processes, gone {time.monotonic() - since:.1f} s later")
    assert not left


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
        to = rng.choice(["driver", "group", "all"])
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
