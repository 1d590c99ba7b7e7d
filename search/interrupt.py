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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from search import guardian

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEAF = (signal.SIGTERM, signal.SIGHUP)
LINE = "slimfront: interrupted"
SHUTDOWN_S = 6.0  # for Ray to end its processes; then they go with this one

_before: dict[int, Any] = {}  # handlers of the signals that are heard
_came: list[int] = []
_at_once = False
_own_process = False  # whether nothing but the command runs in it


@contextmanager
def remembered() -> Iterator[None]:
    """Within, the signals raise KeyboardInterrupt, and `check` knows of it.

    Once one has come, what finalisers and other threads meet is no news: Ray's processes may have
    had the same signal.
    """
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
    hooks = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = lambda met: None if _came else hooks[0](met)
    threading.excepthook = lambda met: None if _came else hooks[1](met)
    try:
        yield
    finally:
        if not (_came and _own_process):  # which ends, while threads may go on
            sys.unraisablehook, threading.excepthook = hooks
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


def came() -> bool:
    """Whether a signal has come: then errors, as of Ray's that had it too, are its consequences."""
    return bool(_came)


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
    """Within, each process that is begun has a group of its own and is deaf to SIGTERM and SIGHUP.

    For Ray's. A terminal that is closed, and `timeout`, signal a command's whole group, Slurm all
    processes of a job; and without its Ray a search could not put away what it has (once its raylet
    is dead, Ray ends the driver too). They are killed where Ray asks them to end.
    """
    real = subprocess.Popen.__init__

    def begin(self: Any, *args: Any, **options: Any) -> None:
        if os.name == "posix" and not options.get("start_new_session"):
            first = options.get("preexec_fn")
            options |= {"process_group": 0, "preexec_fn": partial(_deaf, first)}
            self.terminate = self.kill
        real(self, *args, **options)

    subprocess.Popen.__init__ = begin  # type: ignore[method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = real  # type: ignore[method-assign]


def _deaf(first: Callable[[], object] | None) -> None:
    """In a child before it becomes another program: children of its own inherit it, see `hearing`.

    Ray does so with SIGINT.
    """
    if first is not None:
        first()
    signal.pthread_sigmask(signal.SIG_BLOCK, DEAF)


def hearing() -> None:
    """In a worker of Ray's: it and what its tasks begin hear all signals again."""
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DEAF)


def leave(status: int) -> None:
    """End the process of an interrupted command without Python's own end, which can crash.

    Threads of Ray, torch and pyarrow may still run; what is to be written has been written.
    """
    timer = threading.Timer(SHUTDOWN_S, os._exit, (status,))
    timer.daemon = True
    timer.start()
    if (ray := sys.modules.get("ray")) is not None:
        begun = guardian.descendants(os.getpid())
        for number in _before or SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        try:
            ray.shutdown()
        except BaseException as error:
            print(f"slimfront: while Ray was ended: {error}", file=sys.stderr)
        # its agents outlive it by a minute, and hold its ports
        guardian.kill(guardian.living(begun))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the terminal is gone
            continue
    os._exit(status)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    if _at_once and _own_process:
        os.write(2, f"{LINE}\n".encode())
        guardian.kill(guardian.descendants(os.getpid()))
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
