"""The lattice of width vectors that a search may visit, and walks on it to a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pruning.errors import UserError
from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.cost import Cost
from pruning.graph.wishes import least_widths

STEPS = 8  # the automatic divisor leaves at least this many widths per group
WIDEST = 8  # and is at most this: what tensor cores and vector units like


@dataclass(frozen=True)
class Lattice:
    """Allowed widths per group: multiples of `step` from `low`, and `high` (all int64 [groups])."""

    step: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def snap(self, widths: np.ndarray) -> np.ndarray:
        """Nearest allowed widths; float [..., groups] → int64 [..., groups]."""
        snapped = np.rint(np.asarray(widths) / self.step).astype(np.int64) * self.step
        return np.clip(np.where(widths >= self.high, self.high, snapped), self.low, self.high)

    def up(self, widths: np.ndarray) -> np.ndarray:
        """One step wider where there is room; int64 [groups]."""
        return np.minimum((widths // self.step + 1) * self.step, self.high)

    def down(self, widths: np.ndarray) -> np.ndarray:
        """One step narrower where there is room; int64 [groups]."""
        return np.maximum(((widths - 1) // self.step) * self.step, self.low)


def lattice(
    graph: ChannelGraph,
    divisor: int | None = None,
    floor: float = 0.0,
    least: Mapping[str, float] | None = None,
) -> Lattice:
    """Widths that are multiples of `divisor` (None: automatic) and at least `floor` of the whole.

    The automatic divisor is the largest power of two up to 8 that leaves at least eight steps
    (16 channels → 2, 32 → 4, 64 and more → 8). Steps are multiples of a group's granularity.
    least: by pattern of names a share or number of channels that stay ({"stem.*": 1.0}).
    """
    if divisor is not None and (not isinstance(divisor, int | np.integer) or divisor < 1):
        raise UserError(f"divisor is {divisor!r}; give a whole number from 1, or None")
    if not 0 <= floor <= 1:
        raise UserError(
            f"least share of the channels is {floor!r}; give one from 0 to 1, as in 0.1"
        )
    channels, granularity = graph.widths, graph.granularity
    if divisor is None:
        # in units, so that a group of blocks of 4 channels gets its eight steps as well
        units = channels // np.maximum(granularity, 1)
        fits = np.maximum(units // STEPS, 1)
        power = 2 ** np.floor(np.log2(fits)).astype(np.int64)
        step = np.minimum(power, np.maximum(WIDEST // granularity, 1)) * granularity
    else:
        step = np.lcm(np.minimum(divisor, channels), granularity)
    step = np.minimum(step, channels).astype(np.int64)
    fewest = np.maximum(floor * channels, 1)
    if least:
        fewest = np.maximum(fewest, least_widths(graph, least))
    low = np.ceil(fewest / step).astype(np.int64) * step
    return Lattice(step=step, low=np.minimum(low, channels), high=channels)


def uniform(graph: ChannelGraph, lat: Lattice, ratio: float) -> np.ndarray:
    """Every group at the same share of its channels; int64 [groups]."""
    return lat.snap(graph.widths * ratio)


def fit(
    cost: Cost,
    family: Callable[[float], np.ndarray],
    target: float,
    *,
    allowed: Callable[[np.ndarray], bool] = lambda widths: True,
    rounds: int = 40,
) -> np.ndarray:
    """Largest member of a family, growing in t ∈ [0, 1], that costs at most `target`.

    target: in the unit of `cost.of`. allowed: whether a member is within other limits. The smallest
    member where none fits.
    """

    def fits(widths: np.ndarray) -> bool:
        return bool(cost.of(widths) <= target) and allowed(widths)

    low, high = 0.0, 1.0
    if fits(family(high)):
        return family(high)
    for _ in range(rounds):
        middle = (low + high) / 2
        if fits(family(middle)):
            low = middle
        else:
            high = middle
    return family(low)
