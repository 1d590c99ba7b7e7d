"""RUN/live.json: what a search is doing now, for whoever watches it from elsewhere.

The driver writes it every few seconds; a reader sees by its `beat` whether the driver still lives.
No clocks are compared.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pruning.errors import UserError
from search.storage import files as storage

FILE = "live.json"


@dataclass(frozen=True)
class Running:
    """A trial that runs: its cost, in the run's unit; epochs so far, score on val or None."""

    trial: str
    cost: float
    epochs: float
    score: float | None
    seconds: float


@dataclass(frozen=True)
class Live:
    """`trials`: the budget; `seconds_left`: a guess, None before the first trial has ended."""

    beat: int
    trials: int
    finished: int
    seconds_left: float | None
    running: Sequence[Running] = ()


def write(run: storage.Location, live: Live) -> None:
    """Write it if that can be done: a search does not end for want of being watched."""
    with suppress(UserError, OSError):
        storage.write(run / FILE, json.dumps(dataclasses.asdict(live)).encode())


def read(run: storage.Location) -> Live | None:
    """None where there is none, or one that is damaged."""
    try:
        found = json.loads(storage.read_bytes(run / FILE))
        left = found["seconds_left"]
        return Live(
            beat=int(found["beat"]),
            trials=int(found["trials"]),
            finished=int(found["finished"]),
            seconds_left=None if left is None else float(left),
            running=tuple(_running(item) for item in found["running"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _running(found: dict[str, object]) -> Running:
    value = found["score"]
    return Running(
        trial=str(found["trial"]),
        cost=float(str(found["cost"])),
        epochs=float(str(found["epochs"])),
        score=None if value is None else float(str(value)),
        seconds=float(str(found["seconds"])),
    )
