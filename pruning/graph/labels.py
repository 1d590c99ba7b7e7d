"""Channel labels: where they are kept, and what a forward pass says about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.graph.channel_graph import Layer

FIXED = 0
Key = tuple[str, int]


class Record:
    """Layers, labels of the parameter axes, and ties, as a forward pass brings them up."""

    def __init__(self, state: dict[str, Tensor], parameters: frozenset[str]) -> None:
        self.parameters = parameters
        self.names = {id(tensor): name for name, tensor in state.items()}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self.axes: dict[Key, Tensor] = {}
        self.layers: list[Layer] = []
        self.count = 1
        self.ties: list[tuple[Tensor, Tensor]] = []
        self.fixes: list[tuple[Tensor, str]] = []

    def layer(
        self, kind: str, weight: Tensor, bias: Tensor | None, groups: int, positions: int
    ) -> str:
        """Note a layer, its bias labelled like its output; the name of its weight."""
        name = self.names[id(weight)]
        bias_name = None if bias is None else self.names.get(id(bias))
        shape = self.shapes[name]
        kernel = int(np.prod(shape[2:], dtype=np.int64))
        module = name.rpartition(".")[0]
        self.layers.append(Layer(module, kind, name, bias_name, groups, kernel, positions))
        if bias_name:
            self.attach(bias_name, 0, self.axis(name, 0))
        return name

    def axis(self, name: str, axis: int) -> Tensor:
        """Labels of one parameter axis, fresh ones at first sight; int64 [size]."""
        if (name, axis) not in self.axes:
            size = self.shapes[name][axis]
            self.axes[name, axis] = torch.arange(self.count, self.count + size)
            self.count += size
        return self.axes[name, axis]

    def attach(self, name: str, axis: int, labels: Tensor) -> None:
        """Give a parameter axis these labels, tied to those it has already."""
        if (name, axis) in self.axes:
            self.tie(self.axes[name, axis], labels)
        else:
            self.axes[name, axis] = labels

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Channels of a and b, position by position, go together."""
        self.ties.append((a.reshape(-1), b.reshape(-1)))

    def tie_varying(self, a: Tensor, b: Tensor) -> None:
        """Tie two label arrays of one shape, reading constant dimensions once."""
        for dim in range(a.ndim):
            if a.stride(dim) == 0 and b.stride(dim) == 0:
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        different = a != b
        if bool(different.any()):
            self.tie(a[different], b[different])

    def fix(self, tensor: Tensor, reason: str) -> None:
        """All channels that the tensor carries stay."""
        if (labels := labels_of(tensor)) is not None:
            self.fixes.append((labels.unique(), reason))

    def fix_producer(self, name: str, reason: str) -> None:
        """All output channels of the layer that a group is named after stay."""
        layer = next(layer for layer in self.layers if layer.name == name.partition("#")[0])
        self.fixes.append((self.axes[layer.weight, 0], reason))


def labels_of(tensor: Tensor) -> Tensor | None:
    """int64 of the tensor's shape; None where no labelled value went into it."""
    return getattr(tensor, "labels", None)


def all_fixed(tensor: Tensor) -> Tensor:
    """FIXED at every position of the tensor."""
    return torch.zeros((), dtype=torch.int64).expand(tensor.shape)


def start(tensor: Tensor) -> None:
    """Label an input of the network, or a value of unknown origin."""
    tensor.labels = all_fixed(tensor)  # type: ignore[attr-defined]


def spread(out: Tensor, labels: Tensor, dim: int) -> None:
    """Label `out` along one dimension, alike over all others; labels: int64 [size of dim]."""
    shape = [1] * out.ndim
    shape[dim] = len(labels)
    out.labels = labels.view(shape).expand(out.shape)  # type: ignore[attr-defined]


def along(tensor: Tensor, dim: int) -> Tensor | None:
    """Labels along one dimension, int64 [size], where all others agree; else None."""
    labels = labels_of(tensor)
    if labels is None:
        return torch.zeros(tensor.shape[dim], dtype=torch.int64)
    rows = labels.movedim(dim, 0).flatten(1)
    return rows[:, 0].clone() if bool((rows == rows[:, :1]).all()) else None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors of nested lists, tuples and dictionaries, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
