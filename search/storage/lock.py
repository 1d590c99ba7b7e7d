"""One driver at a time on a run: a file that the living one renews.

No clocks are compared: who finds another's file looks whether it changes.
"""

from __future__ import annotations

import json
import os
import platform
import signal
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


class Lease:
    """That this process drives the run; `check` tells where another has taken it over."""

    def __init__(self, place: files.Location) -> None:
        self.place = place
        self.mine: dict[str, Any] = {"token": uuid.uuid4().hex, "host": platform.node()}
        self.mine |= {"pid": os.getpid(), "beat": 0}
        self._seen = time.monotonic()
        self._taken: dict[str, Any] | None = None
        _write(place, self.mine)

    def renew(self) -> bool:
        """Write the file anew; False where it is another's."""
        if self._lost():
            return False
        self.mine["beat"] += 1
        _write(self.place, self.mine)
        self._seen = time.monotonic()
        return True

    def check(self) -> None:
        """UserError where another process has taken over, this one having stood still for long."""
        if self._taken is None and self._stood_still():
            with suppress(UserError):  # a store out of reach tells nothing
                self._lost()
        if self._taken is not None:
            if not self._taken:
                who, there = "another process", "it has ended since"
            else:
                who = f"process {self._taken.get('pid')} on {self._taken.get('host')}"
                there = "it goes on there"
            raise UserError(
                f"{who} has taken over this run, as this one stood still for more than "
                f"{STALE_S:.0f} s; {there}, and this one has stopped"
            )

    def give_back(self) -> None:
        """Remove the file, if it is still this process's own."""
        if (_read(self.place) or {}).get("token") == self.mine["token"]:
            files.remove_file(self.place)

    def _lost(self) -> bool:
        found = _read(self.place)
        if found is not None:
            if found.get("token") != self.mine["token"]:
                self._taken = found
        elif self._stood_still() and not files.exists(self.place):
            self._taken = {}  # another has followed, and has given the run back at its end
        return self._taken is not None

    def _stood_still(self) -> bool:
        return time.monotonic() - self._seen > STALE_S / 2


@contextmanager
def hold(run: files.Location, say: Callable[[str], None]) -> Iterator[Lease]:
    """Within, this process alone drives the run. UserError where another one does.

    Where another takes it over nevertheless, this process is interrupted, and `Lease.check` says
    why.
    """
    place = run / FILE
    _wait_for_the_other(place, say)
    lease = Lease(place)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, over), daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        over.set()
        renewing.join()
        with suppress(UserError, OSError):  # a store that does not answer: what was done is done
            lease.give_back()


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
    except (PermissionError, KeyError, ValueError, TypeError, OverflowError):
        return False
    return False


def _renew(lease: Lease, over: threading.Event) -> None:
    while not over.wait(RENEW_S):
        with suppress(UserError):  # a full disk, a store out of reach: told where it does harm
            if not lease.renew():
                # the main thread may be in a trial of hours
                signal.pthread_kill(threading.main_thread().ident or 0, _heard())
                return


def _heard() -> signal.Signals:
    """What interrupts this process; a script's job in the background does not hear Ctrl-C."""
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if deaf and callable(signal.getsignal(signal.SIGTERM)):
        return signal.SIGTERM
    return signal.SIGINT


def _read(place: files.Location) -> dict[str, Any] | None:
    try:
        found = json.loads(files.read_bytes(place))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(place: files.Location, mine: dict[str, Any]) -> None:
    files.write(place, json.dumps(mine).encode())
