"""Ctrl-C that is not lost: Python drops a KeyboardInterrupt where it meets a finaliser."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came = threading.Event()


@contextmanager
def remembered() -> Iterator[None]:
    """Within, Ctrl-C raises as always, and `check` knows of it."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    # elsewhere Python delivers no signals; what a script started with & is to ignore them
    if not main or before in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _came.clear()


def check() -> None:
    """Raise the KeyboardInterrupt that came and got lost; to be called between long steps."""
    if _came.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.set()
    raise KeyboardInterrupt
