"""Ends what a driver's own Ray leaves behind where the driver is killed. Of Linux only.

Ray's two agents outlive its server by a minute: they go on telling it of its death. A SIGKILL gives
the driver no time to end them, so a small process beside it does: it remembers what Ray has begun
below this driver, waits for the driver's end, and then for theirs, but not for long.

The file is run as a script, without slimfront and its packages: it starts in some 30 ms.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress

GRACE_S = 2.0  # for Ray to end by itself
LOOK_S = 1.0  # from one look at the processes to the next
SHARE = 0.01  # of a core's time, at most, goes into looking
RAY = ("gcs_server", "raylet", "ray::")  # how the names of a driver's own Ray begin

Process = tuple[int, str]  # its id, and when it began: ids are used again

_guardian: subprocess.Popen[bytes] | None = None


def begin() -> None:
    """Have Ray's processes below this one ended once it is gone; nothing where one is at it."""
    global _guardian
    if not os.path.isdir("/proc/self") or (_guardian is not None and _guardian.poll() is None):
        return
    with suppress(OSError):  # no process to be had: Ray will say so
        _guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid())],
            stdin=subprocess.PIPE,  # which closes with this process
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )


def descendants(parent: int, *, ray: bool = False) -> set[Process]:
    """Processes that one has begun, and theirs. Of Linux only.

    ray: of its own children count only those that Ray has begun, and theirs.
    """
    table = _table()
    new = {
        pid
        for pid, (own, _, name) in table.items()
        if own == parent and (not ray or name.startswith(RAY))
    }
    found: set[Process] = set()
    while new:
        found |= {(pid, table[pid][1]) for pid in new}
        new = {pid for pid, (own, _, _) in table.items() if own in new}
    return found


def grown(processes: Collection[Process]) -> set[Process]:
    """Those that still live, and what they have begun by now."""
    found = living(processes)
    return found.union(*(descendants(pid) for pid, _ in found))


def living(processes: Collection[Process]) -> set[Process]:
    table = _table()
    return {each for each in processes if table.get(each[0], (0, "", ""))[1] == each[1]}


def _table() -> dict[int, tuple[int, str, str]]:
    """Of each process its parent, when it began, and its name; without those that have ended."""
    table = {}
    for entry in os.scandir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.name.isdigit():
            with suppress(OSError), open(f"{entry.path}/stat") as file:
                head, _, rest = file.read().rpartition(")")
                state, parent, *fields = rest.split()
                if state != "Z":
                    table[int(entry.name)] = int(parent), fields[17], head.partition("(")[2]
    return table


def kill(processes: Collection[Process]) -> None:
    for pid, _ in processes:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def watch(driver: int) -> None:
    """Wait for the driver's end, then for that of its Ray's; end what is there after GRACE_S."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to all processes of a job at once
    begun: set[Process] = set()
    while os.getppid() == driver:
        began = time.process_time()
        begun = living(begun) | descendants(driver, ray=True)
        wait = max(LOOK_S, (time.process_time() - began) / SHARE)
        if select.select([sys.stdin], [], [], wait)[0]:
            break  # closed
    until = time.monotonic() + GRACE_S
    # servers begin agents between two looks, and outlive their driver by a moment
    while (begun := grown(begun)) and time.monotonic() < until:
        time.sleep(0.1)
    kill(begun)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
