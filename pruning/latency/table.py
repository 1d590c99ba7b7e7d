"""A network's latency as a function of its widths: its layers' grids and a fitted rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from pruning.graph import ChannelGraph, Lattice, channel_counts, cut
from pruning.latency import grid
from pruning.latency.calls import layer_calls
from pruning.latency.grid import Grid
from pruning.latency.rest import Rest, fit
from pruning.latency.runtimes import Runtime
from pruning.latency.timing import Timing

FITTED = 20  # whole networks that the correction is fitted to
LEAST = 0.1  # of the fastest of them: less is foretold of none


@dataclass(frozen=True)
class Line:
    """One call of a layer: its grid, and its channels as affine functions of the widths.

    positions: values that it writes for one image and output channel; taps: sides of its kernel,
    multiplied.
    """

    weight: str
    kind: str
    grid: Grid
    rows: tuple[np.ndarray, int]
    columns: tuple[np.ndarray, int]
    positions: int
    taps: int


@dataclass(frozen=True)
class Measured:
    """Whole networks that were timed: widths int64 [N, groups], median ms float64 [N]."""

    widths: np.ndarray
    ms: np.ndarray


@dataclass(frozen=True)
class LatencyTable:
    """Foretells a batch's time in ms from the times of the layers and what else there is."""

    lines: tuple[Line, ...]
    rest: Rest
    measured: Measured
    runtime: str
    batch: int

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """W: int [N, groups] (or [groups]) to ms float64 [N] (or a scalar)."""
        ms = self.rest(features(self.lines, np.atleast_2d(widths)))
        ms = np.maximum(ms, LEAST * self.measured.ms.min())  # nothing takes no time
        return ms if np.ndim(widths) == 2 else ms[0]

    def layers(self, widths: np.ndarray) -> dict[str, float]:
        """Time of each layer in ms at W: int [groups], by weight; calls of one weight summed."""
        rows = np.atleast_2d(widths)
        found: dict[str, float] = {}
        for line in self.lines:
            own = self.rest.scale * float(_layer(line, rows)[0])
            found[line.weight] = found.get(line.weight, 0.0) + own
        return found


def build(
    model: nn.Module,
    graph: ChannelGraph,
    lattice: Lattice,
    runtime: Runtime,
    known: dict[str, Grid] | None = None,
    say: Callable[[str], None] = lambda text: None,
    fitted: int = FITTED,
    example: Any = None,
) -> LatencyTable:
    """Time the layers of `model` that `known` lacks, and some whole slim networks; fit the rest.

    known: grids by kind of layer, to which the new ones are added. example: a batch of inputs,
    where the network takes more than one tensor.
    """
    known = {} if known is None else known
    calls = layer_calls(model, graph, example)
    fixed = {layer.weight: _fixed(graph, layer.weight) for layer in graph.layers}
    for name, found in grid.time_layers(
        calls, fixed, runtime, known, lambda done, of: say(f"{done} of {of} kinds of layers timed")
    ):
        known[name] = found
    kinds = [(call.weight, grid.named(call, fixed)) for call in calls]
    lines = tuple(line(graph, weight, name, known[name]) for weight, name in kinds)
    widths = spread(graph, lattice, fitted)
    timed = time_networks(model, graph, runtime, widths, example)
    ms = np.array([each.median_ms for each in timed])
    say(f"{len(ms)} whole networks timed")
    rest = fit(features(lines, widths), ms)
    return LatencyTable(lines, rest, Measured(widths, ms), runtime.describe(), runtime.batch)


def features(lines: Sequence[Line], widths: np.ndarray) -> np.ndarray:
    """The layers' times in ms, the values that they write, their weights: float64 [N, 3]."""
    found = np.zeros((len(widths), 3))
    for line in lines:
        rows = _count(line.rows, widths)
        found[:, 0] += _layer(line, widths)
        found[:, 1] += line.positions * rows
        found[:, 2] += line.taps * rows * _count(line.columns, widths)
    return found


def spread(graph: ChannelGraph, lattice: Lattice, count: int, seed: int = 0) -> np.ndarray:
    """Widths over the whole range: the ends, then random ones by ratio; int64 [count, groups]."""
    rng = np.random.default_rng(seed)
    ratios = (np.arange(count - 1) + 0.5) / max(count - 1, 1)
    each = ratios[:, None] * rng.uniform(0.7, 1.3, (count - 1, len(graph.groups)))
    return np.concatenate([graph.widths[None], lattice.snap(graph.widths * each)])


def time_networks(
    model: nn.Module,
    graph: ChannelGraph,
    runtime: Runtime,
    widths: Iterable[np.ndarray],
    example: Any = None,
) -> list[Timing]:
    """Times of slim networks of `widths` [N, groups]; which channels stay is no matter."""
    found = []
    for each in widths:
        units = np.maximum(each // np.maximum(graph.granularity, 1), 1)
        slim = cut(model, graph, tuple(np.arange(n) for n in units))
        found.append(runtime.network(slim, graph.input_shape if example is None else example))
    return found


def line(graph: ChannelGraph, weight: str, kind: str, found: Grid) -> Line:
    """A call of a layer with the grid of its kind."""
    layer = next(each for each in graph.layers if each.weight == weight)
    rows, columns = (channel_counts(graph, weight, axis) for axis in (0, 1))
    return Line(weight, kind, found, rows, columns, layer.positions, layer.kernel)


def _fixed(graph: ChannelGraph, weight: str) -> tuple[bool, bool]:
    return tuple(not channel_counts(graph, weight, axis)[0].any() for axis in (0, 1))  # type: ignore[return-value]


def _count(affine: tuple[np.ndarray, int], widths: np.ndarray) -> np.ndarray:
    return widths @ affine[0] + affine[1]


def _layer(line: Line, widths: np.ndarray) -> np.ndarray:
    return line.grid.at(_count(line.rows, widths), _count(line.columns, widths))
