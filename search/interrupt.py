"""Signals that end a command: Ctrl-C, SIGTERM (Slurm, Kubernetes) and SIGHUP (a closed terminal).

All three raise KeyboardInterrupt, and none is lost: Python drops one where it meets a finaliser,
and Ray puts its own handlers in their place.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINE = "slimfront: interrupted"
SHUTDOWN_S = 6.0  # for Ray to end its processes; then they go with this one

_before: dict[int, Any] = {}  # handlers of the signals that are heard
_came: list[int] = []
_at_once = False
_own_process = False  # whether nothing but the command runs in it


@contextmanager
def remembered() -> Iterator[None]:
    """Within, the signals raise KeyboardInterrupt, and `check` knows of it."""
    # elsewhere than in the main thread Python delivers none
    if threading.current_thread() is not threading.main_thread() or _before:
        yield
        return
    for number in map(int, SIGNALS):
        # what a script started with & or nohup is to ignore one
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
            _before[number] = handler
    _came.clear()
    hear()
    try:
        yield
    finally:
        for number, handler in _before.items():
            signal.signal(number, handler)
        _before.clear()


def hear() -> None:
    """Take the signals back from a library that has taken them; nothing outside `remembered`."""
    if threading.current_thread() is threading.main_thread():
        for number in _before:
            signal.signal(number, _interrupt)


def own_process() -> None:
    """Say that this process is a command's, to be ended where it is interrupted."""
    global _own_process
    _own_process = True


def check() -> None:
    """Raise the KeyboardInterrupt that came and got lost; to be called between long steps."""
    if _came and _before:
        raise KeyboardInterrupt


def code() -> int:
    """The exit code of a command that was interrupted: 128 and the signal's number."""
    return 128 + (_came[0] if _came else signal.SIGINT)


@contextmanager
def at_once() -> Iterator[None]:
    """Within, a signal ends a command's process then and there, with its line and code.

    For long imports and the start of Ray, which cannot be unwound: torn down half-way they crash.
    Nothing may be written within. Ray's processes end with the one that began them.
    """
    global _at_once
    before, _at_once = _at_once, True
    real = signal.signal

    def keep_ours(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number in _before else real(number, handler)

    signal.signal = keep_ours  # type: ignore[assignment]  # Ray's start sets a handler of its own long before it has started
    try:
        yield
    finally:
        signal.signal = real
        _at_once = before
        hear()


@contextmanager
def apart() -> Iterator[None]:
    """Within, each process that is begun has a group of its own: for Ray's.

    A terminal that is closed, and `timeout`, signal a command's whole group, and without its Ray a
    search could not put away what it has.
    """
    real = subprocess.Popen.__init__

    def begin(self: Any, *args: Any, **options: Any) -> None:
        if os.name == "posix" and not options.get("start_new_session"):
            options.setdefault("process_group", 0)
        real(self, *args, **options)

    subprocess.Popen.__init__ = begin  # type: ignore[method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = real  # type: ignore[method-assign]


def leave(status: int) -> None:
    """End the process of an interrupted command without Python's own end, which can crash.

    Threads of Ray, torch and pyarrow may still run; what is to be written has been written.
    """
    timer = threading.Timer(SHUTDOWN_S, os._exit, (status,))
    timer.daemon = True
    timer.start()
    if (ray := sys.modules.get("ray")) is not None:
        begun = _descendants()
        for number in _before or SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        try:
            ray.shutdown()
        except BaseException as error:
            print(f"slimfront: while Ray was ended: {error}", file=sys.stderr)
        _kill(begun & _descendants(begun))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the terminal is gone
            continue
    os._exit(status)


Process = tuple[int, str]  # its id, and when it began: ids are used again


def _kill(processes: Collection[Process]) -> None:
    """Ray's agents outlive it by half a minute, and hold its ports."""
    for pid, _ in processes:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _descendants(also: Collection[Process] = ()) -> set[Process]:
    """Processes that this one has begun, and theirs; those of `also` that live. Of Linux only."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in os.scandir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.name.isdigit():
            with suppress(OSError), open(f"{entry.path}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1]), fields[19]
    found = {process for process in also if parents.get(process[0], (0, ""))[1] == process[1]}
    new = {os.getpid()}
    while new:
        new = {pid for pid, (parent, _) in parents.items() if parent in new}
        found |= {(pid, parents[pid][1]) for pid in new}
    return found


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    if _at_once and _own_process:
        os.write(2, f"{LINE}\n".encode())
        _kill(_descendants())
        os._exit(code())
    if number != signal.SIGINT and signal.getsignal(signal.SIGINT) not in (
        _interrupt,
        signal.SIG_IGN,
        signal.SIG_DFL,
        None,
    ):
        # whoever has Ctrl-C now, Ray Tune while trials run, is to end as it would by that
        signal.raise_signal(signal.SIGINT)
        return
    raise KeyboardInterrupt
