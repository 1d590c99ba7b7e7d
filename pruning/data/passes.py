"""A pass over encoded images: read ahead by some threads, decoded by others, in a fixed order."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pruning.data import order, sharing
from pruning.data.crops import DRAWS
from pruning.data.decoding import BrokenImageError, Encoded, View
from pruning.data.leading import Lead
from pruning.data.sharing import Decoded, Sharing
from pruning.data.storage import Storage
from pruning.errors import UserError

READERS, REMOTE_READERS = 2, 16  # threads that read
NAMED = 10  # broken images that are named in the log, at most
logger = logging.getLogger(__name__)


class Broken:
    """The images that could not be read, by place, with the reason; of any number of passes."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.lock = threading.Lock()

    def add(self, place: str, reason: str) -> None:
        with self.lock:
            if place in self.found:
                return
            self.found[place] = reason
            count = len(self.found)
        if count <= NAMED:
            logger.warning("%s is no readable image (%s); it is skipped", place, reason)
        elif count % 100 == 0:
            logger.warning("%d images so far could not be read and are skipped", count)


@dataclass(frozen=True)
class Pass:
    """One visit of all `rows` (int64 [N]) of a storage.

    draws: whether images are cropped or mirrored at random. replace: a broken image's place is
    taken by its neighbour, so that counts hold; else it is left out.
    """

    storage: Storage
    rows: np.ndarray
    view: View
    seed: int
    epoch: int
    shuffle: bool
    draws: bool
    replace: bool
    threads: int
    broken: Broken
    sharing: Sharing | None = None
    name: str = ""  # of the set, for sharing

    def run(self, first: int = 0, ahead: int = 0) -> Iterator[Piece]:
        """Decoded blocks in the order of the pass, from image `first` on.

        ahead: images to have in work beyond those that the threads are at.
        """
        plan = order.windows(self.storage, self.rows, self.seed, self.epoch, shuffle=self.shuffle)
        blocks = list(order.blocks(plan))
        begins = np.cumsum([0, *(len(b.positions) for b in blocks)])
        start = int(np.searchsorted(begins, first, side="right")) - 1
        blocks = blocks[start:]
        depth = 2 * self.threads + -(-ahead // order.BLOCK)
        decoders = ThreadPoolExecutor(self.threads, "decode")
        loader = _Loader(self.storage, plan, blocks, self._lead(plan))
        waiting: deque[Future[Piece]] = deque()
        skip = first - int(begins[start]) if blocks else 0
        try:
            todo = iter(blocks)
            while True:
                while len(waiting) < depth and (block := next(todo, None)) is not None:
                    if loader.lead is not None:
                        loader.lead.begun(block.window, block.index)
                    waiting.append(decoders.submit(self._block, block, loader))
                if not waiting:
                    return
                piece = waiting.popleft().result()
                yield piece.after(skip) if skip else piece
                skip = 0
        finally:
            for future in waiting:
                future.cancel()
            loader.close()
            decoders.shutdown(wait=False, cancel_futures=True)

    def _lead(self, plan: list[order.Window]) -> Lead | None:
        """None where blocks are not shared."""
        if self.sharing is None or self.sharing.ring_gb <= 0 or not self.shuffle:
            return None
        images = max((len(window.positions) for window in plan), default=0)
        # what is waited for must not be removed before it is read
        roomy = 2 * images * self.view.size**2 * 3 <= self.sharing.ring_gb * 1e9
        name = f"{self.name}-{self.seed:x}-{self.epoch}"
        return Lead(sharing.folder(self.sharing, name), active=roomy)

    def _block(self, block: order.Block, loader: _Loader) -> Piece:
        try:
            rng = np.random.default_rng([self.seed, self.epoch, 1 + block.index])
            draws = rng.random((len(block.positions), DRAWS)) if self.draws else None

            def decode() -> Decoded:
                return self._decode(block, loader, draws)

            lead, window = loader.lead, block.window
            if lead is not None and self.sharing is not None:

                def expected() -> bool:
                    return not lead.mine(window) and lead.expected(window, block.index)

                place = lead.folder / f"{block.index}.u8"
                made = sharing.block(place, self.sharing, self.view.size, decode, expected)
                if not place.exists():  # a full disk: nobody is to wait for it
                    lead.ends(window)
            else:
                made = decode()
            mirror = None if draws is None else draws[: len(made.source), -1] < 0.5
            return Piece(block.positions[made.source], made.pixels, mirror)
        finally:
            loader.done(block.window)

    def _decode(self, block: order.Block, loader: _Loader, draws: np.ndarray | None) -> Decoded:
        size, count = self.view.size, len(block.positions)
        pixels = np.empty((count, size, size, 3), np.uint8)
        source = np.arange(count, dtype=np.int32)
        good = np.zeros(count, dtype=bool)
        for i, row in enumerate(self.rows[block.positions].tolist()):
            unit = loader.unit(block.window, int(self.storage.unit_of[row]))
            data = unit[int(self.storage.offset_of[row])]
            try:
                pixels[i] = self.view.pixels(data, None if draws is None else draws[i])
                good[i] = True
            except BrokenImageError as error:
                self.broken.add(self.storage.place(row), str(error))
        if good.all():
            return Decoded(source, pixels)
        if not self.replace:
            return Decoded(source[good], pixels[good])
        if not good.any():
            row = int(self.rows[block.positions[0]])
            raise UserError(
                f"none of {count} images can be read, {self.storage.place(row)} among them; "
                "check data.root"
            )
        nearest = np.flatnonzero(good)
        source = nearest[np.searchsorted(nearest, source) % len(nearest)].astype(np.int32)
        return Decoded(source, pixels[source])


@dataclass(frozen=True)
class Piece:
    """positions: int64 [n], in the set; pixels: uint8 [n, S, S, 3]; mirror: bool [n] or None."""

    positions: np.ndarray
    pixels: np.ndarray
    mirror: np.ndarray | None

    def until(self, count: int) -> Piece:
        return self._part(slice(count))

    def after(self, count: int) -> Piece:
        return self._part(slice(count, None))

    def _part(self, part: slice) -> Piece:
        mirror = None if self.mirror is None else self.mirror[part]
        return Piece(self.positions[part], self.pixels[part], mirror)


class _Loader:
    """The units of the windows in work, and of the next one; each is read once, when needed."""

    def __init__(
        self,
        storage: Storage,
        plan: list[order.Window],
        blocks: list[order.Block],
        lead: Lead | None,
    ) -> None:
        self.storage, self.plan, self.lead = storage, plan, lead
        self.left = Counter(block.window for block in blocks)
        self.loads: dict[int, dict[int, Future[Sequence[Encoded]]]] = {}
        self.lock = threading.Lock()
        self.readers = ThreadPoolExecutor(REMOTE_READERS if storage.remote else READERS, "read")

    def unit(self, window: int, unit: int) -> Sequence[Encoded]:
        loads = self.loads.get(window, {}).get(unit)
        if loads is None or window + 1 not in self.loads:
            with self.lock:
                self._begin(window)
                self._begin(window + 1)
                loads = self.loads[window][unit]
        return loads.result()

    def done(self, window: int) -> None:
        """One block less to be decoded of a window."""
        with self.lock:
            self.left[window] -= 1
            if not self.left[window]:
                self.loads.pop(window, None)
                if self.lead is not None:
                    self.lead.ends(window)

    def close(self) -> None:
        if self.lead is not None:
            self.lead.close()
        self.readers.shutdown(wait=False, cancel_futures=True)

    def _begin(self, window: int) -> None:
        if self.left[window] > 0 and window not in self.loads:
            units = self.plan[window].units.tolist()
            self.loads[window] = {u: self.readers.submit(self.storage.load, u) for u in units}


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
