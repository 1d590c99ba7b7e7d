"""Tensors put aside for later: in memory up to a budget, beyond it in a file without a name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, overload

import torch
from torch import Tensor

from pruning.data import Workspace, trim_heap
from pruning.errors import MemoryBudgetError

TRIM = 64e6  # bytes that go to the file or come from it between two looks at the heap's holes


class Shelf:
    """What it holds in memory needs `room` bytes at most; the rest comes back bit by bit.

    What comes when it is full goes to the file: a pass goes through all parts in turn, so that
    none is needed sooner than another.
    """

    def __init__(self, workspace: Workspace, room: float | None = None) -> None:
        """room: the whole budget where none is stated."""
        self.folder = workspace.folder or tempfile.gettempdir()
        self.room = workspace.bytes if room is None else room
        self.held = 0
        self._file: IO[bytes] | None = None
        self._end = self._moved = 0
        self._free: dict[int, list[int]] = {}  # places in the file by size

    @property
    def spilled(self) -> int:
        """Bytes of the file."""
        return self._end

    def put(self, tensor: Tensor) -> Item:
        return Item(self, tensor)

    def keep(self, tensors: Iterable[Tensor]) -> Kept:
        """Put aside one by one, as they are made."""
        return Kept([self.put(tensor) for tensor in tensors])

    def write(self, data: Tensor) -> int:
        """Where in the file it lies; data: contiguous, on the CPU. An error on a full disk."""
        size = _bytes(data)
        places = self._free.get(size)
        place = places.pop() if places else self._end
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder, prefix="slimfront-")  # noqa: SIM115
            self._file.seek(place)
            self._file.write(_view(data))
        except OSError as error:
            raise MemoryBudgetError(
                f"{self.folder} takes no more activations after {self._end / 1e9:.1f} GB "
                f"({error.strerror}); raise resources.memory_gb (memory_gb in Python), or set "
                "TMPDIR to a disk with room"
            ) from error
        self._end = max(self._end, place + size)
        self._trim(size)
        return place

    def read(self, place: int, into: Tensor) -> None:
        assert self._file is not None
        self._file.seek(place)
        found = self._file.readinto(_view(into))  # type: ignore[attr-defined]
        if found != _bytes(into):
            raise MemoryBudgetError(
                f"{self.folder}: activations put aside there are gone; try again"
            )
        self._trim(found)

    def release(self, place: int, size: int) -> None:
        self._free.setdefault(size, []).append(place)

    def _trim(self, size: int) -> None:
        # parts come and go by the hundred, and the heap keeps what they leave between others
        self._moved += size
        if self._moved > TRIM:
            self._moved = 0
            trim_heap()


class Item:
    """One tensor of a shelf; its memory, or its place in the file, is free once nobody holds it."""

    __slots__ = ("device", "order", "place", "shape", "shelf", "size", "tensor")

    def __init__(self, shelf: Shelf, tensor: Tensor) -> None:
        self.shelf, self.size = shelf, _bytes(tensor)
        self.tensor: Tensor | None = None
        self.place = -1
        if shelf.held + self.size <= shelf.room:
            shelf.held += self.size
            self.tensor = tensor
        else:
            self._write(tensor)

    def get(self) -> Tensor:
        """The tensor; of one in the file a new copy, laid out as it was."""
        if self.tensor is not None:
            return self.tensor
        shape, dtype = self.shape
        found = torch.empty(shape, dtype=dtype)
        self.shelf.read(self.place, found)
        return found.to(self.device).permute(_inverse(self.order))

    def set(self, tensor: Tensor) -> None:
        """In place of what it was; of the same size."""
        if self.tensor is not None:
            self.tensor = tensor
        else:
            self.shelf.release(self.place, self.size)
            self._write(tensor)

    def _write(self, tensor: Tensor) -> None:
        # in the order of its memory: layers choose their kernels by it, and so the last bits
        self.order = sorted(range(tensor.ndim), key=lambda d: -tensor.stride(d))
        data = tensor.detach().permute(self.order).cpu().contiguous()
        self.shape, self.device = (data.shape, data.dtype), tensor.device
        self.place = self.shelf.write(data)

    def __del__(self) -> None:
        if getattr(self, "tensor", None) is not None:
            self.shelf.held -= self.size
        elif getattr(self, "place", -1) >= 0:
            self.shelf.release(self.place, self.size)


class Kept(Sequence[Tensor]):
    """Tensors of a shelf in a row; those in the file are read each time they are asked for."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Kept: ...
    def __getitem__(self, index: int | slice) -> Tensor | Kept:
        if isinstance(index, slice):
            return Kept(self.items[index])
        return self.items[index].get()

    def __iter__(self) -> Iterator[Tensor]:
        return (item.get() for item in self.items)

    def update(self, change: Callable[[Tensor], Tensor]) -> None:
        """Each replaced by change(tensor), which may be done in place."""
        for item in self.items:
            item.set(change(item.get()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _view(data: Tensor) -> Any:
    flat: Any = data.view(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
