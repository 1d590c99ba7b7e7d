"""What the benchmarks share: repeated timing, one JSON line per result, a table at the end."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def median_s(body: Callable[[], Any], repeats: int = 5, warm: int = 1) -> float:
    """Median wall time of `body` in seconds, after `warm` calls that do not count."""
    for _ in range(warm):
        body()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        body()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def interleaved_s(bodies: dict[str, Callable[[], Any]], repeats: int = 5) -> dict[str, float]:
    """Medians of several bodies measured in turns, so that a busy machine is equally unfair."""
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for body in bodies.values():
        body()
    for _ in range(repeats):
        for name, body in bodies.items():
            began = time.perf_counter()
            body()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> dict[str, Any]:
    """Where a number was measured."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def emit(benchmark: str, **values: Any) -> None:
    """One JSON line: what was measured, and on what."""
    print(json.dumps({"benchmark": benchmark, **values, **machine()}), flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    shown = Table(title=title)
    for column in columns:
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    console = Console()
    if not console.is_terminal:  # a file has room for every column
        console = Console(width=200)
    console.print(shown)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
