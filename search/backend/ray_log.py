"""What Ray says of dying workers and the like, kept in RUN/ray.log rather than on the screen."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import IO, Any

from rich.console import Console

from pruning.errors import UserError
from search.storage import files

NAME = "ray.log"
MOST = 10_000_000  # characters kept
SPEAKERS = ("ray_listen_error_messages", "ray_print_logs")  # Ray's threads in the driver


@contextmanager
def kept(out: str, console: Console) -> Iterator[None]:
    """Within, the words of Ray's own threads and loggers are kept; said where, at the end.

    Nothing is written where Ray has said nothing, or the run has come to be no folder.
    """
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    try:
        with ExitStack() as stack:
            stack.enter_context(_logged(handler))
            stack.enter_context(redirect_stdout(_Split(sys.stdout, sink)))
            stack.enter_context(redirect_stderr(_Split(sys.stderr, sink)))
            yield
    finally:
        _store(out, sink.getvalue(), console)


@contextmanager
def _logged(handler: logging.Handler) -> Iterator[None]:
    """Ray's loggers speak to `handler` alone. Those that Ray itself adds later are taken out."""
    logger = logging.getLogger("ray")
    before, only = list(logger.handlers), _Only(handler)
    logger.handlers = only
    try:
        yield
    finally:
        logger.handlers = before + [added for added in only.refused if added not in before]


class _Only(list[logging.Handler]):
    """A list of one handler that notes, and does not take, what is added."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__([handler])
        self.refused: list[logging.Handler] = []

    def append(self, added: logging.Handler) -> None:
        self.refused.append(added)


class _Split(io.TextIOBase):
    """Text goes to `screen`, that of Ray's threads to `sink`."""

    def __init__(self, screen: IO[str], sink: IO[str]) -> None:
        self.screen, self.sink = screen, sink

    def write(self, text: str) -> int:
        if threading.current_thread().name not in SPEAKERS:
            return self.screen.write(text)
        if self.sink.tell() < MOST:
            self.sink.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.screen, name)

    def flush(self) -> None:
        self.screen.flush()

    def isatty(self) -> bool:
        return self.screen.isatty()

    def fileno(self) -> int:
        return self.screen.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(getattr(self.screen, "encoding", "utf-8"))


def _store(out: str, text: str, console: Console) -> None:
    if not text.strip():
        return
    try:
        run = files.open_uri(out)
        if not files.exists(run / "run.json"):  # the search never began
            return
        place = run / NAME
        before = files.read_bytes(place) if files.exists(place) else b""
        files.write(place, before + text.encode(errors="replace"))
    except (OSError, UserError):
        return  # on a disk that is full: it is a log
    lines = len(text.strip().splitlines())
    console.print(f"{lines} lines of Ray's own are in {place}", highlight=False, markup=False)
