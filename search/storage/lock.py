"""One driver at a time on a run: a file that the living one renews.

No clocks are compared: who finds another's file looks whether it changes.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pruning.errors import UserError
from search.storage import files

FILE = "driver.json"
RENEW_S = 10.0
STALE_S = 45.0  # a driver that has not renewed its file for so long is taken to be dead


@contextmanager
def hold(run: files.Location, say: Callable[[str], None]) -> Iterator[None]:
    """Within, this process alone drives the run. UserError where another one does."""
    place = run / FILE
    _wait_for_the_other(place, say)
    mine = {"token": uuid.uuid4().hex, "host": platform.node(), "pid": os.getpid(), "beat": 0}
    _write(place, mine)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(place, mine, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        with suppress(UserError, OSError):  # a store that does not answer: what was done is done
            if (_read(place) or {}).get("token") == mine["token"]:
                files.remove_file(place)


def _wait_for_the_other(place: files.Location, say: Callable[[str], None]) -> None:
    first = _read(place)
    if first is None or _is_dead(first):
        return
    who = f"process {first.get('pid')} on {first.get('host')}"
    say(f"{who} was at work on this run; looking for up to {STALE_S:.0f} s whether it still is")
    until = time.monotonic() + STALE_S
    while time.monotonic() < until:
        time.sleep(min(1.0, STALE_S / 10))
        now = _read(place)
        if now is None:
            return
        if now != first:
            raise UserError(
                f"{who} is at work on this run; wait for its end, stop it, or choose another --out"
            )


def _is_dead(driver: dict[str, Any]) -> bool:
    """Whether it ran on this machine and has ended."""
    if driver.get("host") != platform.node():
        return False
    try:
        os.kill(int(driver["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False


def _renew(place: files.Location, mine: dict[str, Any], over: threading.Event) -> None:
    while not over.wait(RENEW_S):
        with suppress(UserError):  # a full disk, a store out of reach: told where it does harm
            found = _read(place)
            if found is not None and found.get("token") != mine["token"]:
                return  # this process stood still for long, and another has taken over
            mine["beat"] += 1
            _write(place, mine)


def _read(place: files.Location) -> dict[str, Any] | None:
    try:
        found = json.loads(files.read_bytes(place))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(place: files.Location, mine: dict[str, Any]) -> None:
    files.write_atomic(place, json.dumps(mine).encode())
