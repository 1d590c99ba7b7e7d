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
    _came.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # where Python neither delivers signals nor lets handlers be set
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check() -> None:
    """Raise the KeyboardInterrupt that came and got lost; to be called between long steps."""
    if _came.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.set()
    raise KeyboardInterrupt
