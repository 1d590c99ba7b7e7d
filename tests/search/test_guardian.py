"""The guardian ends what Ray has begun below a driver that was killed, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from search import guardian, interrupt
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

DRIVER = """
import subprocess, sys, time
from search import guardian
guardian.begin()
first = guardian._guardian
guardian.begin()
assert guardian._guardian is first, "one for a process"
own = [subprocess.Popen([name, "60"], stdout=subprocess.DEVNULL) for name in sys.argv[1:]]
print(*(each.pid for each in own), flush=True)
time.sleep(60)
"""


@pytest.fixture
def ray_like(tmp_path: Path) -> str:
    """A program by the name of Ray's own."""
    program = tmp_path / "raylet"
    shutil.copy(str(shutil.which("sleep")), program)
    return str(program)


def runs(pid: int) -> bool:
    return any(each[0] == pid for each in guardian.living(_of(pid)))


def _of(pid: int) -> set[guardian.Process]:
    table = guardian._table()
    return {(pid, table[pid][1])} if pid in table else set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_drivers_ray_is_ended_and_its_other_children_are_not(
    number: signal.Signals, ray_like: str
) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, ray_like, "sleep"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert driver.stdout is not None
    rays, others = map(int, driver.stdout.readline().split())
    try:
        time.sleep(1.5)  # it looks each second
        driver.send_signal(number)
        driver.communicate()
        until = time.monotonic() + 10
        while runs(rays) and time.monotonic() < until:
            time.sleep(0.1)
        assert not runs(rays)
        assert runs(others), "of somebody else"
    finally:
        for pid in (rays, others):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_an_id_that_is_used_again_is_another_process() -> None:
    (own,) = _of(os.getpid())
    assert guardian.living([own, (own[0], "0")]) == {own}


def test_what_is_begun_apart_is_deaf_to_a_jobs_signals_until_it_hears() -> None:
    """Ray's servers; its workers hear again, or what their tasks begin could not be ended."""
    code = (
        "import signal; from search import interrupt\n"
        "for hear in (lambda: None, interrupt.hearing):\n"
        "    hear(); print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))))"
    )
    with interrupt.apart():
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
    said, _ = child.communicate()
    blocked = sorted(map(int, interrupt.DEAF))
    assert said.splitlines() == [str(blocked), "[]"]
    with subprocess.Popen(["sleep", "9"]) as other:
        other.terminate()
    assert other.returncode == -signal.SIGTERM


def test_what_a_server_begins_after_the_last_look_is_known_too() -> None:
    """Seed 3, strike 4 of the drill: an agent that began in the second before the kill was left."""
    server = subprocess.Popen(["sh", "-c", "read line; sleep 60 & wait"], stdin=subprocess.PIPE)
    assert server.stdin is not None
    seen = _of(server.pid)
    server.stdin.write(b"begin\n")
    server.stdin.flush()
    until = time.monotonic() + 10
    while len(grown := guardian.grown(seen)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    guardian.kill(grown)
    server.wait()
    assert len(grown) == 2 and seen < grown
    assert guardian.grown(seen) == set()
