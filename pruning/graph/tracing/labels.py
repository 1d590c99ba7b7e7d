"""Channel labels: where they are kept, and how they are read off tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

FIXED = 0


def labels_of(tensor: Tensor) -> Tensor | None:
    """int64 of the tensor's shape; None where no labelled value went into it."""
    return getattr(tensor, "labels", None)


def give(tensor: Tensor, labels: Tensor) -> None:
    """Label a tensor; labels: int64, broadcast to its shape."""
    tensor.labels = labels.expand(tensor.shape)  # type: ignore[attr-defined]


def all_fixed(tensor: Tensor) -> Tensor:
    """FIXED at every position of the tensor."""
    return torch.zeros((), dtype=torch.int64).expand(tensor.shape)


def fed(tensor: Tensor) -> bool:
    """Whether an input of the network went into it."""
    return getattr(tensor, "fed", False)


def feed(tensor: Tensor) -> None:
    """An input of the network went into it."""
    tensor.fed = True  # type: ignore[attr-defined]


def start(tensor: Tensor) -> None:
    """Label an input of the network, or a value of unknown origin."""
    give(tensor, all_fixed(tensor))


def spread(out: Tensor, labels: Tensor, dim: int) -> None:
    """Label `out` along one dimension, alike over all others; labels: int64 [size of dim]."""
    shape = [1] * out.ndim
    shape[dim] = len(labels)
    give(out, labels.view(shape))


def along(tensor: Tensor, dim: int) -> Tensor | None:
    """Labels along one dimension, int64 [size], where all others agree; else None."""
    labels = labels_of(tensor)
    if labels is None:
        return torch.zeros(tensor.shape[dim], dtype=torch.int64)
    dim %= tensor.ndim
    if any(other != dim for other in varying(labels)):
        return None
    for other in range(labels.ndim):
        if other != dim:
            labels = labels.narrow(other, 0, min(1, labels.shape[other]))
    return labels.reshape(-1).clone()


def compact(labels: Tensor) -> Tensor:
    """The same labels with every dimension that repeats them read once."""
    for dim in range(labels.ndim):
        if labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, min(1, labels.shape[dim]))
    return labels


def varying(labels: Tensor) -> list[int]:
    """Dimensions along which labels change."""
    labels = compact(labels)
    found = []
    for dim in range(labels.ndim):
        if labels.shape[dim] > 1:
            first = labels.narrow(dim, 0, 1)
            if bool((labels != first).any()):
                found.append(dim)
            else:
                labels = first
    return found


def once(labels: Tensor) -> Tensor:
    """Labels of size 1 along every dimension along which they do not change."""
    changes = varying(labels)
    for dim in range(labels.ndim):
        if dim not in changes:
            labels = labels.narrow(dim, 0, min(1, labels.shape[dim]))
    return labels


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors of nested lists, tuples, mappings, dataclasses and namespaces, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from tensors_in(getattr(value, each.name))
    elif isinstance(value, SimpleNamespace):
        yield from tensors_in(vars(value))
