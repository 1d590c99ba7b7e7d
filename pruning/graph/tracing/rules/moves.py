"""Operations that move values: done to the labels as they are done to the values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pruning.graph.tracing.labels import all_fixed, give, labels_of, once, tensors_in, varying
from pruning.graph.tracing.record import Record

SAME = """contiguous clone detach to float half bfloat16 double type type_as cpu cuda requires_grad
    data identity alias""".split()
MOVE = """permute transpose movedim moveaxis swapaxes swapdims t T mT adjoint squeeze unsqueeze
    hstack vstack dstack expand broadcast_to repeat repeat_interleave tile
    pixel_unshuffle""".split()
JOIN = "cat concat concatenate stack".split()
RESHAPE = "flatten reshape view view_as reshape_as unflatten ravel".split()


def same(record: Record, out: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> bool:
    """A copy, or another type or place of the same values."""
    labels = labels_of(input)
    if labels is None or out.shape != input.shape:
        return False
    give(out, labels)
    return True


def move(record: Record, out: Any, *args: Any, name: str, **kwargs: Any) -> bool:
    """Transposes, concatenations, repetitions: no channel is split or lost."""
    if name in {"T", "mT"}:
        labels = labels_of(args[0])
        moved = None if labels is None else getattr(labels, name)
    else:
        moved = on_labels(name, args, kwargs)
    if moved is None:
        return False
    for result, labels in zip(tensors_in(out), tensors_in(moved), strict=True):
        give(result, labels)
    return True


def join(
    record: Record, out: Tensor, tensors: Any, dim: int = 0, *, name: str, axis: int | None = None
) -> bool:
    """Concatenation; labels stay of size 1 where none of the parts changes."""
    dim = (dim if axis is None else axis) % out.ndim
    parts = [t for t in tensors if t.shape != (0,)]  # torch lets an empty vector pass
    labels = [all_fixed(t) if (own := labels_of(t)) is None else own for t in parts]
    if name == "stack":
        labels = [each.unsqueeze(dim) for each in labels]
    small = [once(each) for each in labels]
    wide = {d for each in small for d in range(out.ndim) if each.shape[d] > 1} | {dim}
    joined = [
        part.expand([each.shape[d] if d in wide else 1 for d in range(out.ndim)])
        for part, each in zip(small, labels, strict=True)
    ]
    give(out, torch.cat(joined, dim))
    return True


def expand_as(record: Record, out: Tensor, input: Tensor, other: Tensor) -> bool:
    """A gate [B, C, 1, 1] on a map; a map [B, 1, H, W] takes the channels it is spread over."""
    labels, wanted = labels_of(input), labels_of(other)
    if labels is None:
        return False
    spreads = [
        dim for dim in range(-input.ndim, 0) if input.shape[dim] == 1 and other.shape[dim] > 1
    ]
    if wanted is not None and not varying(labels):
        changes = varying(wanted)
        if changes and all(dim - other.ndim in spreads for dim in changes):
            labels = once(wanted)
    give(out, labels)
    return True


def reshape(record: Record, out: Tensor, input: Tensor, *sizes: Any, **kwargs: Any) -> bool:
    """Dimensions merged or split: `flatten(1)`, `view(b, groups, c // groups, h, w)`.

    Where a dimension of channels is split, each part has to keep the same channels: unit i of each
    part is tied. With -1 in front, view(b, -1, 4, h, w), units are the blocks of 4 instead.
    """
    labels = labels_of(input)
    if labels is None:
        return False
    flat = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    free = flat.index(-1) if len(flat) == out.ndim and -1 in flat else None
    small = once(labels)
    changes = varying(labels)
    shape = [1] * out.ndim
    for inside, outside in segments(input.shape, out.shape):
        if any(dim in changes for dim in inside):
            for dim in inside:
                small = _stretch(small, dim, input.shape[dim])
            for dim in outside:
                shape[dim] = out.shape[dim]
    small = small.reshape(shape)
    for _, outside in segments(input.shape, out.shape):
        vary = [dim for dim in varying(small) if dim in outside]
        if len(vary) > 1:
            stays = free if free in vary else vary[-1]
            for dim in vary:
                if dim != stays:
                    small = record.tie_across(small, dim)
    for dim in varying(small):
        record.sized(out.shape[dim], once(small).movedim(dim, 0).flatten(1)[:, 0])
    give(out, small)
    return True


def segments(before: Any, after: Any) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions that a reshape maps to each other: those with equal products."""
    found, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        inside, outside = [], []
        left = right = 1
        while True:
            if left <= right and i < len(before):
                left *= before[i]
                inside.append(i)
                i += 1
            elif j < len(after):
                right *= after[j]
                outside.append(j)
                j += 1
            if left == right and inside and outside:
                break
            if i == len(before) and j == len(after):
                break
        found.append((inside, outside))
    return found


def on_labels(name: str, args: Any, kwargs: Any) -> Any:
    """What an operation makes of labels in place of values; None where it has no such name."""

    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            labels = labels_of(value)
            return all_fixed(value) if labels is None else labels
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(swap(item) for item in value)
        return value

    args, kwargs = swap(args), {key: swap(value) for key, value in kwargs.items()}
    if hasattr(Tensor, name) and isinstance(args[0], Tensor):
        return getattr(args[0], name)(*args[1:], **kwargs)
    func = getattr(torch, name, None) or getattr(torch.nn.functional, name, None)
    return func(*args, **kwargs) if func else None


def _stretch(labels: Tensor, dim: int, size: int) -> Tensor:
    shape = list(labels.shape)
    shape[dim] = size
    return labels.expand(shape)


RULES: Mapping[str, Callable[..., bool]] = {
    **dict.fromkeys(SAME, same),
    **{name: partial(move, name=name) for name in MOVE},
    **{name: partial(join, name=name) for name in JOIN},
    **dict.fromkeys(RESHAPE, reshape),
    "expand_as": expand_as,
}
