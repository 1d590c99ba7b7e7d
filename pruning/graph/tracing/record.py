"""What a forward pass says about channels: layers, products, labels of axes, and ties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pruning.graph.parts import Layer
from pruning.graph.tracing.labels import compact, fed, labels_of

MANY = 4096  # labels: fewer are quicker tied than looked through
Key = tuple[str, int]
Place = tuple[str, int, int]
"""A line of the network's code and how often it has been passed: (file, line, count)."""


@dataclass(frozen=True)
class ProductLabels:
    """MACs of a product of activations; `sides`: labels along up to two axes that can be cut."""

    name: str
    kind: str
    macs: int
    sides: tuple[Tensor, ...] = ()


@dataclass
class Record:
    """Layers, labels of the parameter axes, and ties, as a forward pass brings them up.

    `state` are the tensors of the network that runs, `images` how many inputs it was given.
    `seen`: the labels that met at a line of the network's code; `mixing`: norms over channels.
    """

    state: dict[str, Tensor]
    parameters: frozenset[str]
    images: int = 1
    axes: dict[Key, Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    products: list[ProductLabels] = field(default_factory=list)
    uncounted: dict[str, None] = field(default_factory=dict)
    count: int = 1
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    fixes: list[tuple[Tensor, str]] = field(default_factory=list)
    seen: dict[Place, list[Tensor]] = field(default_factory=dict)
    mixing: dict[Place, tuple[int, Tensor]] = field(default_factory=dict)
    place: Place | None = None
    counts: list[tuple[str, str, int | None, Tensor]] = field(default_factory=list)
    owner: Callable[[], tuple[str, Mapping[str, object]] | None] = lambda: None
    used: dict[str, None] = field(default_factory=dict)
    unreached: dict[str, str] = field(default_factory=dict)
    counting: bool = True

    def __post_init__(self) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        self.rename(self.state)

    def rename(self, state: dict[str, Tensor]) -> None:
        """Go on with another twin's tensors."""
        self.state = state  # held, so that no id is given twice
        self.names = {id(tensor): name for name, tensor in state.items()}

    def name_of(self, tensor: Tensor | None) -> str | None:
        return None if tensor is None else self.names.get(id(tensor))

    def per_image(self, total: int, *operands: Tensor | None) -> int:
        """A count per input of the network; what no input went into happens once.

        A code of positions that is made anew for every image has their number in front.
        """
        given = [t for t in operands if t is not None]
        if not any(map(fed, given)) and not any(
            t.ndim and t.shape[0] == self.images for t in given
        ):
            return total
        return round(total / self.images)

    def layer(
        self,
        kind: str,
        weight: Tensor,
        bias: Tensor | None,
        groups: int,
        positions: int,
        written: int = 0,
    ) -> str:
        """Note a layer, its bias labelled like its output; the name of its weight."""
        name = self.names[id(weight)]
        bias_name = self.name_of(bias)
        kernel = int(np.prod(self.shapes[name][2:], dtype=np.int64))
        if self.counting:
            stem = name.removesuffix(".weight")
            self.layers.append(Layer(stem, kind, name, bias_name, groups, kernel, positions))
        if bias_name and self.shapes[bias_name] == (self.shapes[name][written],):
            self.attach(bias_name, 0, self.axis(name, written))
        return name

    def product(self, name: str, kind: str, macs: int, *sides: Tensor) -> None:
        if self.counting and macs:
            self.products.append(ProductLabels(name, kind, macs, sides))

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
        """Channels of a and b, position by position, go together; broadcast to each other."""
        a, b = torch.broadcast_tensors(a, b)
        for dim in range(a.ndim):
            if a.stride(dim) == 0 and b.stride(dim) == 0:
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        if a.numel() > MANY:
            a, b = _without_repeats(a, b)
        different = a != b
        if bool(different.any()):
            self.ties.append((a[different], b[different]))

    def tie_across(self, labels: Tensor, dim: int) -> Tensor:
        """Tie what differs along a dimension; the labels with that dimension read once."""
        first = labels.narrow(dim, 0, 1)
        self.tie(labels, first)
        return first

    def mixes(self, dim: int, labels: Tensor) -> None:
        """The operation at hand normalises over channels; labels: int64 [size of dim]."""
        if self.place is not None and self.counting:
            self.mixing[self.place] = (dim, labels)

    def sized(self, size: int, labels: Tensor) -> bool:
        """The code at hand names a number of channels; labels: int64 [size], those it counts.

        Attributes of the module that are this number are taken to be its source, and will be
        adapted; whether there are any. Where they are not, the check finds out.
        """
        if size < 2 or not bool((labels != 0).any()) or not self.counting:
            return False
        if (found := self.owner()) is None:
            return False
        path, attributes = found
        before = len(self.counts)
        for name, value in attributes.items():
            if isinstance(value, int) and not isinstance(value, bool) and value == size:
                self.counts.append((path, name, None, labels))
            elif isinstance(value, tuple | list):
                for i, item in enumerate(value):
                    if isinstance(item, int) and not isinstance(item, bool) and item == size:
                        self.counts.append((path, name, i, labels))
        return len(self.counts) > before

    def fix(self, tensor: Tensor, reason: str) -> None:
        """All channels that the tensor carries stay."""
        if (labels := labels_of(tensor)) is not None:
            self.fix_labels(labels, reason)

    def fix_labels(self, labels: Tensor, reason: str) -> None:
        self.fixes.append((compact(labels).unique(), reason))


def _without_repeats(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Without slices that are those before them: all tokens but one have the same channels."""
    for dim in range(a.ndim):
        size = a.shape[dim]
        if size > 1:
            new = torch.zeros(size, dtype=torch.bool)
            new[0] = True
            for each in (a, b):
                change = each.narrow(dim, 1, size - 1) != each.narrow(dim, 0, size - 1)
                new[1:] |= change.movedim(dim, 0).flatten(1).any(1)
            index = new.nonzero().squeeze(1)
            a, b = a.index_select(dim, index), b.index_select(dim, index)
    return a, b
