"""Time of a call on a device: warm, median and spread, one measurement at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

try:
    import fcntl
except ImportError:  # Windows: measurements are not kept apart
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Timing:
    """Times of `runs` runs in ms: their median and interquartile range."""

    median_ms: float
    iqr_ms: float
    runs: int


def measure(call: Callable[[], Any], seconds: float) -> Timing:
    """Time a call for about `seconds` once it is warm; waits for the GPU where there is one."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    timer.timeit(2)  # the first calls choose kernels
    found = timer.blocked_autorange(min_run_time=seconds)
    runs = found.number_per_run * len(found.raw_times)
    return Timing(1e3 * found.median, 1e3 * found.iqr, runs)


@contextmanager
def alone(device: str) -> Iterator[None]:
    """Hold the device's lock on this node: who measures beside others measures them, too."""
    path = Path(tempfile.gettempdir()) / f"slimfront-{device.replace(':', '-')}.lock"
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
