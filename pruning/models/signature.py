"""What a network is called with, as a model file says it: tensors by place or by keyword."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning.errors import UserError

DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.bool,
    )
}


@dataclass(frozen=True)
class Argument:
    """One tensor of a call.

    shape: of one sample, or where all samples share it (`shared`) of the whole; keyword: its name
    there, "" for an argument by its place.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    keyword: str = ""
    shared: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Argument:
        """TypeError or ValueError for what is no argument."""
        found = cls(**{**data, "shape": tuple(data["shape"])})
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in found.shape):
            raise ValueError("sizes of inputs are whole numbers above 0")
        if found.dtype not in DTYPES or not isinstance(found.keyword, str):
            raise ValueError(f"inputs of type {found.dtype}")
        return found

    def zeros(self, batch: int) -> Tensor:
        return torch.zeros(self._sizes(batch), dtype=DTYPES[self.dtype])

    def random(self, batch: int, generator: torch.Generator) -> Tensor:
        """Noise; of whole numbers 0 and 1, which are in the range of any table of embeddings."""
        kind, sizes = DTYPES[self.dtype], self._sizes(batch)
        if kind.is_floating_point:
            return torch.randn(sizes, generator=generator).to(kind)
        return torch.randint(0, 2, sizes, generator=generator).to(kind)

    def _sizes(self, batch: int) -> tuple[int, ...]:
        return self.shape if self.shared else (batch, *self.shape)


def arguments_of(example: Any) -> tuple[Argument, ...]:
    """Of a batch as a network is called: a tensor, a tuple of arguments, a dictionary of keywords.

    () for one tensor of floats, whose shape says it all, and for what is more than tensors by
    place or by keyword, as the lists of images that detectors take.
    """
    named: dict[str, Any] = dict(example) if isinstance(example, Mapping) else {}
    placed = () if named else example if isinstance(example, tuple) else (example,)
    tensors = [("", each) for each in placed] + list(named.items())
    if not tensors or not all(isinstance(each, Tensor) for _, each in tensors):
        return ()
    batch = next((len(each) for _, each in tensors if each.ndim), 1)
    found = []
    for keyword, each in tensors:
        shared = not each.ndim or len(each) != batch
        kind = str(each.dtype).removeprefix("torch.")
        if kind not in DTYPES:
            return ()
        found.append(Argument(tuple(each.shape[not shared :]), kind, keyword, shared))
    plain = len(found) == 1 and not found[0].keyword and each.is_floating_point()
    return () if plain else tuple(found)


def called(
    signature: Sequence[Argument], tensors: Sequence[Tensor]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Positional arguments and keywords of a call, from its tensors in order."""
    if len(signature) != len(tensors):
        raise UserError(f"{len(tensors)} tensors for a network that takes {len(signature)}")
    pairs = list(zip(signature, tensors, strict=True))
    return (
        [tensor for each, tensor in pairs if not each.keyword],
        {each.keyword: tensor for each, tensor in pairs if each.keyword},
    )
