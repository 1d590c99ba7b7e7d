"""At which numbers of channels time falls, and which of them buy nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.graph import ChannelGraph, Lattice
from pruning.latency.table import LatencyTable

NOTHING = 0.001  # of the whole network's time: less is noise
EDGE = 0.55  # of an even slope's saving: with less it is no stair's edge
FLAT = 0.3  # of a group's widths that save nothing: with fewer its steps stay


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


def followed(table: LatencyTable, graph: ChannelGraph, lattice: Lattice) -> Lattice:
    """The lattice with steps that go down a stair of the device, where it has any.

    Each group's step is doubled, to half its channels at most, while that leaves fewer widths which
    save next to nothing over a wider one. Steps of a device without stairs stay as they are.
    """
    steps, low = lattice.step.copy(), lattice.low.copy()
    for g, channels in enumerate(lattice.high):
        fine = falls(table, graph, lattice, g)
        best = _flat(fine)
        step = int(lattice.step[g])
        while best >= FLAT and (step := 2 * step) <= channels // 2:
            kept = tuple(each for each in fine if each.width % step == 0 or each.width == channels)
            if _flat(kept) < best:
                best, steps[g] = _flat(kept), step
        low[g] = min(-(-int(lattice.low[g]) // int(steps[g])) * int(steps[g]), int(channels))
    return Lattice(steps, low, lattice.high)


def _flat(steps: tuple[Step, ...]) -> float:
    """Share of the widths that save less than EDGE of what they would on an even slope."""
    if len(steps) < 2 or steps[0].ms <= steps[-1].ms:
        return 0.0
    slope = (steps[0].ms - steps[-1].ms) / (steps[0].width - steps[-1].width)
    edge, flat = steps[0], 0
    for step in steps[1:]:
        if edge.ms - step.ms < EDGE * slope * (edge.width - step.width):
            flat += 1
        else:
            edge = step
    return flat / (len(steps) - 1)


def _at(graph: ChannelGraph, group: int, width: int) -> np.ndarray:
    widths = graph.widths.copy()
    widths[group] = width
    return widths
