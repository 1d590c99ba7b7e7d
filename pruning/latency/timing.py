"""Time of a call on a device: warm, median and spread, one measurement at a time."""

from __future__ import annotations

import tempfile
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    import fcntl
except ImportError:  # Windows: measurements are not kept apart
    fcntl = None  # type: ignore[assignment]

RUNS = (10, 300)  # fewest and most of them


@dataclass(frozen=True)
class Timing:
    """Times of `runs` runs in ms: their median and interquartile range."""

    median_ms: float
    iqr_ms: float
    runs: int


def measure(call: Callable[[], Any], seconds: float, device: str = "cpu") -> Timing:
    """Time single runs for about `seconds`, after a quarter of that to warm up.

    device: tells how to wait for a run's end.
    """
    wait = torch.cuda.synchronize if device.startswith("cuda") else None

    def once() -> None:
        call()
        if wait:
            wait()

    # one run at a time: torch.utils.benchmark.Timer takes means over blocks of ten and more, which
    # on a machine with other trials on it are up to twice the median of single runs
    timer = timeit.Timer(once)
    timer.timeit(1)  # a GPU loads its kernels in it: no guide to how long a run takes
    first, until = timer.timeit(1), timeit.default_timer() + seconds / 4
    while timeit.default_timer() < until:
        first = timer.timeit(1)
    runs = int(np.clip(seconds / max(first, 1e-9), *RUNS))
    low, median, high = 1e3 * np.percentile(timer.repeat(runs, number=1), [25, 50, 75])
    return Timing(float(median), float(high - low), runs)


@contextmanager
def alone(device: str) -> Iterator[None]:
    """Hold the device's lock on this node: who measures beside others measures them, too."""
    path = Path(tempfile.gettempdir()) / f"slimfront-{device.replace(':', '-')}.lock"
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
