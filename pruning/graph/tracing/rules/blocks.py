"""Operations that take parts of a tensor: chunks, slices, shuffles, gated linear units.

Where a dimension of channels falls into equal blocks, unit i of every block is tied: then each
block keeps as many channels, and the code that takes blocks goes on to take the right ones. Unequal
parts need no ties where attributes of the module say where they end: those are adapted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pruning.graph.tracing.labels import along, give, labels_of, once, spread, tensors_in, varying
from pruning.graph.tracing.record import Record

TAKE = "chunk split split_with_sizes tensor_split unbind narrow select getitem unfold".split()


def take(record: Record, out: Any, input: Tensor, *args: Any, name: str, **kwargs: Any) -> bool:
    """Parts of the image or whole blocks of channels: `a, b = x.chunk(2, 1)`, `x[:, c // 2 :]`."""
    labels = labels_of(input)
    if labels is None or any(index.is_meta for index in tensors_in((args, kwargs))):
        return False  # the values of the index are not known
    changes = varying(labels)
    for dim in changes:
        numbers = torch.arange(input.shape[dim]).view(
            [-1 if d == dim else 1 for d in range(input.ndim)]
        )
        parts = list(tensors_in(_again(numbers.expand(input.shape), name, args, kwargs)))
        ranges = [_range_of(part) for part in parts]
        if any(each is None for each in ranges) or not _tied(record, labels, dim, ranges):  # type: ignore[arg-type]
            return False
        row = once(labels).movedim(dim, 0).flatten(1)[:, 0]
        for part in parts:
            if part.ndim == input.ndim:
                record.sized(part.shape[dim], row[once(part).reshape(-1)])
        record.sized(input.shape[dim], row)
    moved = _again(labels, name, args, kwargs)
    for result, own in zip(tensors_in(out), tensors_in(moved), strict=True):
        give(result, once(own))
    return True


def _again(tensor: Tensor, name: str, args: Any, kwargs: Any) -> Any:
    if name == "getitem":
        return tensor[args[0]]
    return getattr(tensor, name)(*args, **kwargs)


def _range_of(numbers: Tensor) -> range | None:
    """The positions that a part takes; None where they are no range, or one channel."""
    if len(varying(numbers)) != 1:
        return None
    taken = once(numbers).reshape(-1)
    first, count = int(taken[0]), len(taken)
    whole = torch.equal(taken, torch.arange(first, first + count))
    return range(first, first + count) if whole else None


def _tied(record: Record, labels: Tensor, dim: int, ranges: list[range]) -> bool:
    """Tie the blocks that these parts of a dimension are; whether each part can be taken again."""
    size = labels.shape[dim]
    parts = [part for part in ranges if len(part) < size]
    row = once(labels).movedim(dim, 0).flatten(1)[:, 0]
    alike = len({len(part) for part in parts}) < 2
    if not alike and all(_named(record, row, part) for part in parts):
        return True
    for part in parts:
        count = len(part)
        if size % count or part.start % count:
            if not _named(record, row, part):
                return False
        else:
            blocks = once(labels).unflatten(dim, (size // count, count))
            record.tie(blocks, blocks.narrow(dim, 0, 1))
    return True


def _named(record: Record, row: Tensor, part: range) -> bool:
    """Whether attributes of the module say how long a part is, or where it begins and ends."""
    if record.sized(len(part), row[part.start : part.stop]):
        return True
    ends = [end for end in (part.start, part.stop) if 0 < end < len(row)]
    return all(record.sized(end, row[:end]) for end in ends)


def glu(record: Record, out: Tensor, input: Tensor, dim: int = -1) -> bool:
    """One half gates the other."""
    labels = labels_of(input)
    if labels is None:
        return False
    first, second = labels.chunk(2, dim)
    record.tie(first, second)
    give(out, once(first))
    return True


def channel_shuffle(record: Record, out: Tensor, input: Tensor, groups: int) -> bool:
    """Blocks are interleaved: unit i of each."""
    labels = along(input, 1)
    if labels is None:
        return False
    rows = labels.view(groups, -1)
    record.tie(rows, rows[:1])
    spread(out, rows[0].repeat_interleave(groups), 1)
    return True


def pixel_shuffle(record: Record, out: Tensor, input: Tensor, upscale_factor: int) -> bool:
    """Blocks of r² neighbouring channels become one channel of a larger map."""
    labels = along(input, 1)
    if labels is None:
        return False
    blocks = labels.view(-1, upscale_factor**2)
    record.tie(blocks, blocks[:, :1])
    spread(out, blocks[:, 0].clone(), 1)
    return True


RULES: Mapping[str, Callable[..., bool]] = {
    **{name: partial(take, name=name) for name in TAKE},
    "glu": glu,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "pixel_shuffle": pixel_shuffle,
}
