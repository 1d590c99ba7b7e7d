"""Layers timed on a grid of channels, each kind once; times between its points interpolated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pruning.latency.calls import LayerCall
from pruning.latency.runtimes import Runtime

POINTS = 8  # a side of the grid, besides the whole count


@dataclass(frozen=True)
class Grid:
    """Times of one layer in ms, float64 [rows, columns], at int64 counts of output and input."""

    rows: np.ndarray
    columns: np.ndarray
    ms: np.ndarray

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Linear in both between the points, and beyond them: counts [N] to ms float64 [N]."""
        i, u = _between(self.rows, rows)
        j, v = _between(self.columns, columns)
        k, m = np.minimum(i + 1, len(self.rows) - 1), np.minimum(j + 1, len(self.columns) - 1)
        upper = (1 - v) * self.ms[i, j] + v * self.ms[i, m]
        lower = (1 - v) * self.ms[k, j] + v * self.ms[k, m]
        return np.maximum((1 - u) * upper + u * lower, 0.0)


def points(most: int, multiple: int = 1) -> np.ndarray:
    """Counts to time an axis of `most` channels at: int64, even multiples, the last is `most`.

    multiple: of channels that go at once, as in a grouped convolution.
    """
    units = most // multiple
    step = max(1, 2 ** int(np.log2(max(units // POINTS, 1))))
    counts = np.arange(step, units + 1, step)
    if len(counts) > POINTS:  # 12 or 15 eighths, as 48 channels have: every second, from the end
        counts = counts[::-1][:: -(-len(counts) // POINTS)][::-1]
        counts = np.union1d(counts, [step])
    return np.union1d(counts, [units]) * multiple


def kind(call: LayerCall) -> str:
    """Name of what is timed once: layers of one kind and size share it."""
    return f"{call.rows}x{call.columns} {call.shape}"


def time_layers(
    calls: tuple[LayerCall, ...],
    fixed: Mapping[str, tuple[bool, bool]],
    runtime: Runtime,
    known: Mapping[str, Grid],
    say: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[tuple[str, Grid]]:
    """The grid of each kind of layer that is not `known`, one after another.

    fixed: by weight name, whether its outputs and its inputs are never cut. say(done, of): after
    each kind.
    """
    kinds = {named(call, fixed): call for call in calls}
    missing = {name: call for name, call in kinds.items() if name not in known}
    for done, (name, call) in enumerate(missing.items(), 1):
        whole_rows, whole_columns = fixed[call.weight]
        rows = points(call.rows, call.group_rows or 1)
        columns = points(call.columns)
        rows = rows[-1:] if whole_rows else rows
        columns = columns[-1:] if whole_columns else columns
        ms = np.empty((len(rows), len(columns)))
        for i, j in np.ndindex(ms.shape):
            ms[i, j] = runtime.layer(call, int(rows[i]), int(columns[j]))
        say(done, len(missing))
        yield name, Grid(rows, columns, ms)


def named(call: LayerCall, fixed: Mapping[str, tuple[bool, bool]]) -> str:
    """`kind`, with the sides that are never cut."""
    rows, columns = fixed[call.weight]
    return kind(call) + " outputs fixed" * rows + " inputs fixed" * columns


def _between(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the point below each count, and how far on to the next it is."""
    if len(points) == 1:
        return np.zeros(len(counts), dtype=np.int64), np.zeros(len(counts))
    i = np.clip(np.searchsorted(points, counts, "right") - 1, 0, len(points) - 2)
    return i, (counts - points[i]) / (points[i + 1] - points[i])
