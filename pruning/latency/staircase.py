"""At which numbers of channels time falls, and which of them buy nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.graph import ChannelGraph, Lattice
from pruning.latency.table import LatencyTable

NOTHING = 0.001  # of the whole network's time: less is noise


@dataclass(frozen=True)
class Step:
    """One group alone at `width` channels: the whole network's time in ms, a share of its own."""

    width: int
    ms: float
    share: float


def falls(
    table: LatencyTable, graph: ChannelGraph, lattice: Lattice, group: int
) -> tuple[Step, ...]:
    """Time with one group at each width of the lattice, the widest first, the others whole."""
    widths = [int(graph.widths[group])]
    while (lower := int(lattice.down(_at(graph, group, widths[-1]))[group])) < widths[-1]:
        widths.append(lower)
    ms = table(np.stack([_at(graph, group, width) for width in widths]))
    return tuple(
        Step(width, float(t), float(t / ms[0])) for width, t in zip(widths, ms, strict=True)
    )


def wasted(steps: tuple[Step, ...]) -> tuple[int, ...]:
    """Widths that are no faster than some wider one: channels would go for nothing."""
    found = []
    least = np.inf
    for step in steps:
        if step.share > least - NOTHING and np.isfinite(least):
            found.append(step.width)
        least = min(least, step.share)
    return tuple(found)


def _at(graph: ChannelGraph, group: int, width: int) -> np.ndarray:
    widths = graph.widths.copy()
    widths[group] = width
    return widths
