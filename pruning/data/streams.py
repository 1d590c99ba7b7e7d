"""A set too large for the device: encoded images, decoded by threads on the way to it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pruning.data import sharing as shared
from pruning.data.crops import shorter_side
from pruning.data.decoding import View
from pruning.data.images import Augment, Batch, Batches, Index, augmentation, normalisation
from pruning.data.passes import Broken, Pass, Piece, cores
from pruning.data.sharing import Sharing
from pruning.data.storage import Storage
from pruning.errors import UserError

THREADS = 16  # at most


@dataclass(frozen=True)
class StreamSet:
    """Images of a storage, cropped to `size` pixels each way.

    rows: int64 [N], in the storage; labels: int64 [N] on the CPU. Unaugmented images are resized
    to `short` pixels on their shorter side (0: see `shorter_side`) and centre-cropped;
    "crop-flip" takes random resized crops and mirrors, "flip" mirrors the centre crop.
    threads: that decode (0: one a core). sharing: with other processes of this machine.
    broken: the images that could not be read so far.
    """

    storage: Storage
    rows: np.ndarray
    labels: Tensor
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    augment: str = "crop-flip"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    short: int = 0
    interpolation: str = "bilinear"
    threads: int = 0
    sharing: Sharing | None = None
    broken: Broken = field(default_factory=Broken)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def to(self, device: torch.device | str) -> StreamSet:
        return replace(self, device=torch.device(device))

    def subset(self, index: Index) -> StreamSet:
        rows = index if isinstance(index, slice) else np.asarray(index)
        return replace(self, rows=self.rows[rows], labels=self.labels[rows])

    def batches(
        self,
        size: int,
        *,
        shuffle: bool = False,
        augment: str = "none",
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> StreamBatches:
        """As `ImageSet.batches`: the same for a given generator, whatever the number of threads.

        A broken image is left out of unshuffled passes, and replaced by another in shuffled ones.
        """
        if size < 1:
            raise UserError(f"batch size {size}; it must be at least 1")
        kind = augmentation(self.augment if augment == "auto" else augment)
        where = torch.device("cpu") if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=where))
        return StreamBatches(self, size, shuffle, kind, seed, drop_last)

    def name(self, view: View) -> str:
        """20 hex digits of what is decoded, and how."""
        digest = hashlib.sha256(f"1 {self.storage.digest} {view}".encode())
        digest.update(np.ascontiguousarray(self.rows, dtype=np.int64).tobytes())
        return digest.hexdigest()[:20]


class StreamBatches(Batches):
    """Passes over a StreamSet; the n-th one begun is epoch n - 1."""

    def __init__(
        self,
        source: StreamSet,
        size: int,
        shuffle: bool,
        augment: Augment,
        seed: int,
        drop_last: bool,
    ) -> None:
        self.source, self.size, self.shuffle, self.augment = source, size, shuffle, augment
        self.seed, self.drop_last, self.epoch = seed, drop_last, 0
        self.buffers = _Buffers()

    def __len__(self) -> int:
        full, rest = divmod(len(self.source), self.size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        self.epoch += 1
        return self.at(self.epoch - 1)

    def at(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on, at no cost for those before it."""
        normalise = normalisation(self.source.mean, self.source.std, self.source.device)
        for pieces in _regrouped(self._pieces(epoch, first), self.size, self.drop_last):
            yield self._batch(pieces, *normalise)

    def _pieces(self, epoch: int, first: int) -> Iterator[Piece]:
        source = self.source
        view = View(
            source.size,
            source.short or shorter_side(source.size),
            source.interpolation,
            self.augment.pad > 0,
        )
        name = source.name(view) if source.sharing else ""
        draws = self.augment.pad > 0 or self.augment.flip
        once = Pass(
            source.storage,
            source.rows,
            view,
            self.seed,
            epoch,
            self.shuffle,
            draws,
            self.shuffle,
            source.threads or min(THREADS, cores()),
            source.broken,
            source.sharing,
            name,
        )
        if source.sharing and not self.shuffle and not draws:
            kept = shared.kept(
                source.sharing, name, len(source), source.size, lambda: _in_storage_order(once)
            )
            if kept is not None:
                yield from _from_file(kept, first * self.size, self.size)
                return
        for piece in once.run(first * self.size, self.size):
            mirror = piece.mirror if self.augment.flip else None
            yield replace(piece, mirror=mirror)

    def _batch(self, pieces: list[Piece], scale: Tensor, shift: Tensor) -> Batch:
        source = self.source
        positions = np.concatenate([p.positions for p in pieces])
        shape = (len(positions), source.size, source.size, 3)
        on_cpu = source.device.type == "cpu"
        if on_cpu:
            pixels = self.buffers.take(shape)
        else:
            pin = source.device.type == "cuda"
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        _fill(pixels, pieces, mirror=on_cpu)
        x = pixels if on_cpu else pixels.to(source.device, non_blocking=True)
        if not on_cpu:
            index = torch.from_numpy(_mirrored(pieces)).to(source.device)
            if len(index):
                x[index] = x[index].flip(2)
        # rows of pixels at a time, as a kernel along three channels is ten times slower; in place
        # where it is float already, which is the CPU's way
        rows = x.to(torch.float32).view(*shape[:2], -1)
        x = torch.addcmul(shift.repeat(source.size), rows, scale.repeat(source.size), out=rows)
        y = source.labels[torch.from_numpy(positions)]
        return x.view(shape).permute(0, 3, 1, 2), y.to(source.device, non_blocking=True)


def _fill(pixels: Tensor, pieces: list[Piece], *, mirror: bool) -> None:
    """Put the images into [N, S, S, 3]; mirrored as bytes, a fifteenth of the time of floats."""
    start = 0
    for piece in pieces:
        part = torch.from_numpy(piece.pixels)
        pixels[start : start + len(part)].copy_(part)
        if mirror:
            for i in _mirrored([piece]).tolist():
                pixels[start + i].copy_(part[i].flip(1))
        start += len(part)


def _mirrored(pieces: list[Piece]) -> np.ndarray:
    """Which images are to be mirrored, int64."""
    flips = [np.zeros(len(p.positions), bool) if p.mirror is None else p.mirror for p in pieces]
    return np.flatnonzero(np.concatenate(flips))


class _Buffers:
    """float32 memory, taken again once nobody holds it: fresh pages cost more than all else."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> Tensor:
        for array in self.arrays:
            # the list, the loop and the call hold it; a tensor on it would be a fourth
            if array.shape == shape and sys.getrefcount(array) == 3:
                return torch.from_numpy(array)
        array = np.empty(shape, np.float32)
        self.arrays = [*self.arrays[-self.count + 1 :], array]
        return torch.from_numpy(array)


def _regrouped(pieces: Iterator[Piece], size: int, drop_last: bool) -> Iterator[list[Piece]]:
    """The same images in groups of `size`."""
    group: list[Piece] = []
    have = 0
    for piece in pieces:
        while len(piece.positions):
            need = size - have
            head, piece = piece.until(need), piece.after(need)
            group.append(head)
            have += len(head.positions)
            if have == size:
                yield group
                group, have = [], 0
    if group and not drop_last:
        yield group


def _in_storage_order(once: Pass) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    along = np.argsort(once.rows, kind="stable")
    for piece in replace(once, rows=once.rows[along]).run():
        yield along[piece.positions], piece.pixels


def _from_file(kept: shared.Kept, first: int, chunk: int) -> Iterator[Piece]:
    for start in range(first, len(kept.good), chunk):
        stop = min(start + chunk, len(kept.good))
        good = np.flatnonzero(kept.good[start:stop])
        pixels = kept.read(start, stop)
        yield Piece(start + good, pixels if len(good) == len(pixels) else pixels[good], None)
