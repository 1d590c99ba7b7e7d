"""Which of the processes that share a pass reads a window's files: one of them, while it keeps up.

Whoever decodes a single block of a window has to read all its files. So the first process that
comes to a window leads it: it holds a lock, and a file says up to which block it has work under
way. The others wait for those blocks, and decode for themselves only what lies beyond.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: every process decodes for itself
    fcntl = None  # type: ignore[assignment]

MOMENT_S = 0.016  # in which a process that is as far as this one has begun what this one needs


class Lead:
    """The windows that this pass leads. folder: of the pass's blocks.

    active: whether there are leads at all; none without locks.
    """

    def __init__(self, folder: Path, active: bool = True) -> None:
        self.folder, self.active = folder, active and fcntl is not None
        self.held: dict[int, IO[bytes]] = {}
        self.ended: set[int] = set()
        self.lock = threading.Lock()

    def begun(self, window: int, block: int) -> None:
        """This process will decode the window's blocks up to this one, unless another leads it."""
        if self.mine(window):
            with suppress(OSError, KeyError, ValueError):
                os.pwrite(self.held[window].fileno(), block.to_bytes(8, "little"), 0)

    def mine(self, window: int) -> bool:
        """Whether this process leads the window, now or by this call."""
        with self.lock:
            if window in self.held:
                return True
            if not self.active or window in self.ended:
                return False
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = open(self._place(window), "a+b")  # noqa: SIM115  held beyond this call
            except OSError:
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                return False
            self.held[window] = file
            return True

    def expected(self, window: int, block: int) -> bool:
        """Whether another process has the block in work, or comes to it in a moment."""
        for wait in (MOMENT_S, 0.0):
            try:
                found = int.from_bytes(self._place(window).read_bytes(), "little")
            except OSError:
                return False
            if found >= block:
                return True
            time.sleep(wait)
        return False

    def ends(self, window: int) -> None:
        """This process is through with a window."""
        with self.lock:
            self.ended.add(window)
            file = self.held.pop(window, None)
            if file is not None:
                with suppress(OSError):
                    self._place(window).unlink()
                file.close()

    def close(self) -> None:
        for window in list(self.held):
            self.ends(window)

    def _place(self, window: int) -> Path:
        return self.folder / f"{window}.lead"
