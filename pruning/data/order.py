"""In which order a pass visits images: shuffled in units, then within windows that fit in memory.

A pass is a pure function of (storage, rows, seed, epoch): threads, processes and batch sizes have
no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pruning.data.storage import Storage

WINDOW = 64 << 20  # encoded bytes among which images are shuffled
FIRST = 8 << 20  # of the first window, so that the first batch comes soon; each next has twice that
BLOCK = 32  # images decoded as one piece of work


@dataclass(frozen=True)
class Window:
    """positions: int64 [n], in the set, in the order of the pass; units: what must be read."""

    positions: np.ndarray
    units: np.ndarray


@dataclass(frozen=True)
class Block:
    """positions: int64 [≤ BLOCK] of one window; index: its number in the pass."""

    index: int
    window: int
    positions: np.ndarray


def windows(
    storage: Storage, rows: np.ndarray, seed: int, epoch: int, *, shuffle: bool
) -> list[Window]:
    """The windows of a pass over the storage's `rows` (int64 [N]).

    Shuffled: units in random order, and images at random within each window. Else as `rows` is.
    """
    if not len(rows):
        return []
    units = storage.unit_of[rows]
    order = np.arange(len(rows))
    if shuffle:
        rng = np.random.default_rng([seed, epoch])
        rank = rng.permutation(len(storage.unit_bytes))
        order = np.argsort(rank[units], kind="stable")
    along = units[order]
    begins = np.flatnonzero(np.r_[True, along[1:] != along[:-1]])  # of runs in one unit
    ends_bytes = np.cumsum(storage.unit_bytes[along[begins]])
    found: list[Window] = []
    run, limit = 0, FIRST
    while run < len(begins):
        before = ends_bytes[run - 1] if run else 0
        last = max(run + 1, int(np.searchsorted(ends_bytes, before + limit, side="right")))
        stop = begins[last] if last < len(begins) else len(rows)
        positions = order[begins[run] : stop]
        if shuffle:
            positions = rng.permutation(positions)
        found.append(Window(positions, np.unique(units[positions])))
        run, limit = last, min(WINDOW, 2 * limit)
    return found


def blocks(passes: list[Window]) -> Iterator[Block]:
    """The windows in pieces of up to BLOCK images."""
    index = 0
    for w, window in enumerate(passes):
        for start in range(0, len(window.positions), BLOCK):
            yield Block(index, w, window.positions[start : start + BLOCK])
            index += 1
