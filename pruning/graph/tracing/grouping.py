"""From ties between channels to groups: connected components that occur in the same places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.parts import Attribute, Group, Layer, Product
from pruning.graph.tracing.labels import FIXED
from pruning.graph.tracing.record import Key, Record


@dataclass(frozen=True)
class Grouping:
    """A graph, and which flat unit of it every label of the record is; int64 [labels]."""

    graph: ChannelGraph
    unit_of: np.ndarray

    def groups_at(self, labels: Tensor) -> list[int]:
        """The groups that labels belong to."""
        units = np.unique(self.unit_of[labels.numpy()])
        units = units[units < self.graph.units]
        found = np.searchsorted(self.graph.offsets, units, "right") - 1
        return sorted(set(found.tolist()))

    def labels_at(self, group: int) -> Tensor:
        """All labels of a group's units."""
        start, end = self.graph.offsets[group : group + 2]
        return torch.from_numpy(np.flatnonzero((self.unit_of >= start) & (self.unit_of < end)))


def group(record: Record, input_shape: tuple[int, ...]) -> Grouping:
    """Components of ties are units; units that occur in the same axes, equally often, a group."""
    ties = [*record.ties, *((a, torch.zeros_like(a)) for a, _ in record.fixes)]
    component = _components(record, ties)
    axes = {key: component[labels.numpy()] for key, labels in record.axes.items()}
    groups, flat = _groups(axes, record.layers, int(component[FIXED]), int(component.max()) + 1)
    unit_of = flat[component]
    cut = {key: flat[components] for key, components in axes.items()}
    graph = ChannelGraph(
        input_shape=input_shape,
        groups=groups,
        layers=tuple(record.layers),
        axes=cut,
        shapes=record.shapes,
        parameters=record.parameters,
        fixed=_reasons(record, cut, len(flat) and int(flat.max())),
        products=_products(record, unit_of),
        uncounted=tuple(record.uncounted),
        attributes=_attributes(record, unit_of),
    )
    return Grouping(graph, unit_of)


def _components(record: Record, ties: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    a = np.concatenate([[FIXED], *(x.numpy() for x, _ in ties)])
    b = np.concatenate([[FIXED], *(y.numpy() for _, y in ties)])
    matrix = coo_matrix((np.ones(len(a), dtype=bool), (a, b)), shape=(record.count, record.count))
    return connected_components(matrix, directed=False)[1]


def _products(record: Record, unit_of: np.ndarray) -> tuple[Product, ...]:
    """Products of activations; those that cannot be cut are added up by kind."""
    constant: dict[tuple[str, str], int] = {}
    found = []
    free = int(unit_of[FIXED])
    for product in record.products:
        sides = [unit_of[labels.numpy()] for labels in product.sides]
        sides = [side for side in sides if (side != free).any()]
        if sides:
            found.append(Product(product.name, product.kind, product.macs, tuple(sides)))
        else:
            key = (product.name, product.kind)
            constant[key] = constant.get(key, 0) + product.macs
    return (*found, *(Product(name, kind, macs) for (name, kind), macs in constant.items()))


def _attributes(record: Record, unit_of: np.ndarray) -> tuple[Attribute, ...]:
    """Numbers of channels in modules; where two are told apart by nothing, the first."""
    found: dict[tuple[str, str, int | None], Attribute] = {}
    for module, name, index, labels in record.counts:
        units = unit_of[labels.numpy()]
        if (units != unit_of[FIXED]).any():
            found.setdefault((module, name, index), Attribute(module, name, index, units))
    return tuple(found.values())


def _reasons(record: Record, axes: dict[Key, np.ndarray], free: int) -> dict[str, str]:
    """Why the output channels of layers stay, by the layer's name."""
    local = _components(record, record.ties)
    alone = "its channels are tied to each other and can only go together"
    why: dict[int, str] = {}
    for labels, reason in record.fixes:
        for component in np.unique(local[labels.numpy()]):
            why.setdefault(int(component), reason)
    fixed = {}
    for layer in record.layers:
        stays = axes[layer.weight, layer.written] == free
        if stays.any():
            label = int(record.axes[layer.weight, layer.written][int(stays.argmax())])
            reason = why.get(int(local[label]), alone)
            part = "" if stays.all() else f"{stays.sum()} of {len(stays)} channels: "
            fixed[layer.name] = part + reason
    return fixed | record.unreached


@dataclass
class _Bundle:
    """Units that occur alike: a group to be, named after the first layer that writes it."""

    name: str
    granularity: int
    units: list[int] = field(default_factory=list)


def _groups(
    axes: dict[Key, np.ndarray], layers: list[Layer], fixed: int, count: int
) -> tuple[tuple[Group, ...], np.ndarray]:
    """The groups, and the flat unit of every component; one past the last where it stays."""
    signature = _signatures(axes, count)
    bundles: dict[int, _Bundle] = {}
    placed = np.zeros(count, dtype=bool)
    placed[fixed] = True
    for layer in layers:
        rows = axes[layer.weight, layer.written]
        rows = rows[~placed[rows]]
        if not len(rows):
            continue
        units, first, times = np.unique(rows, return_index=True, return_counts=True)
        placed[units] = True
        order = np.argsort(first)
        for unit, kind, many in zip(
            units[order].tolist(), signature[units[order]].tolist(), times[order].tolist(),
            strict=True,
        ):  # fmt: skip
            if kind not in bundles:
                bundles[kind] = _Bundle(layer.name, many)
            bundles[kind].units.append(unit)
    flat = np.full(count, -1)
    groups: list[Group] = []
    names: dict[str, int] = {}
    total = 0
    for bundle in bundles.values():
        if len(bundle.units) < 2:
            continue
        names[bundle.name] = names.get(bundle.name, 0) + 1
        suffix = f"#{names[bundle.name]}" if names[bundle.name] > 1 else ""
        channels = len(bundle.units) * bundle.granularity
        groups.append(Group(bundle.name + suffix, channels, bundle.granularity))
        flat[bundle.units] = np.arange(total, total + len(bundle.units))
        total += len(bundle.units)
    flat[flat < 0] = total
    return tuple(groups), flat


def _signatures(axes: dict[Key, np.ndarray], count: int) -> np.ndarray:
    """A number for every component, equal where it occurs in the same axes equally often.

    Each axis and count adds a random 64-bit number of its own; sums of different ones that agree
    are too rare to happen.
    """
    numbers = np.zeros(count, dtype=np.uint64)
    for i, units in enumerate(axes.values()):
        times = np.bincount(units, minlength=count).astype(np.uint64)
        occurs = np.flatnonzero(times)
        numbers[occurs] += _mixed(times[occurs] + np.uint64((i + 1) << 32))
    return np.unique(numbers, return_inverse=True)[1]


def _mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64: well spread numbers from consecutive ones; uint64, wrapping."""
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
