"""ChannelGraph: which channels of a network must live and die together, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pruning.graph.parts import Attribute, Group, Layer, Product

FORMAT = 1

Keep = tuple[np.ndarray, ...]
"""Per group the sorted int64 indices of the units that stay (granularity 1: of the channels)."""


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """Coupled channel groups of one network; made once by `pruning.trace`, shared by all trials.

    `axes[tensor, axis]` is int64 [positions]: the flat unit that each position of that tensor axis
    belongs to. Unit u of group g has the flat number `offsets[g] + u`; the number `units`, one past
    the last, marks positions that always stay. Axes that are not listed are never cut.
    """

    input_shape: tuple[int, ...]
    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    axes: Mapping[tuple[str, int], np.ndarray] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    parameters: frozenset[str] = field(repr=False)
    fixed: Mapping[str, str] = field(default_factory=dict)
    products: tuple[Product, ...] = ()
    uncounted: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChannelGraph) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.digest())

    @cached_property
    def widths(self) -> np.ndarray:
        """Channels per group of the whole network, int64 [groups]."""
        return np.array([g.channels for g in self.groups], dtype=np.int64)

    @cached_property
    def granularity(self) -> np.ndarray:
        """Channels per unit, int64 [groups]."""
        return np.array([g.granularity for g in self.groups], dtype=np.int64)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Flat number of each group's first unit, then the number of units; int64 [groups+1]."""
        return np.concatenate([[0], np.cumsum([g.units for g in self.groups])]).astype(np.int64)

    @property
    def units(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def index(self) -> dict[str, int]:
        return {group.name: i for i, group in enumerate(self.groups)}

    def full_keep(self) -> Keep:
        return tuple(np.arange(group.units) for group in self.groups)

    def kept_widths(self, keep: Keep) -> np.ndarray:
        """Channels per group after `keep`, int64 [groups]."""
        kept = np.array([len(units) for units in keep], dtype=np.int64)
        return kept * self.granularity

    def kept_units(self, keep: Keep) -> np.ndarray:
        """`keep` as bool [units + 1]; the last entry, for fixed positions, is True."""
        if len(keep) != len(self.groups):
            raise ValueError(f"keep lists {len(keep)} groups, the graph has {len(self.groups)}")
        kept = np.zeros(self.units + 1, dtype=bool)
        for group, start, units in zip(self.groups, self.offsets, keep, strict=False):
            units = np.asarray(units)
            good = len(units) and units[0] >= 0 and units[-1] < group.units
            if not good or (np.diff(units) <= 0).any():
                raise ValueError(
                    f"group {group.name}: keep 1 to {group.units} of its units, numbers from 0 on, "
                    "rising"
                )
            kept[start + units] = True
        kept[-1] = True
        return kept

    def kept_positions(self, tensor: str, axis: int, kept: np.ndarray) -> np.ndarray:
        """Positions of one tensor axis that stay, given `kept_units(...)`; int64 [kept]."""
        return np.flatnonzero(kept[self.axes[tensor, axis]])

    @cached_property
    def producers(self) -> tuple[tuple[int, ...], ...]:
        """Per group the indices of the layers that write it."""
        return self._touching(lambda layer: layer.written)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """Per group the indices of the layers that read it; a depthwise layer only writes."""
        return self._touching(lambda layer: layer.read)

    def readers(self) -> set[str]:
        """Weights of the layers that read a group."""
        return {self.layers[i].weight for layers in self.consumers for i in layers}

    def _touching(self, axis: Callable[[Layer], int]) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self.groups]
        for i, layer in enumerate(self.layers):
            units = self.axes[layer.weight, axis(layer)]
            groups = np.searchsorted(self.offsets, np.unique(units[units < self.units]), "right")
            for group in np.unique(groups - 1):
                found[group].append(i)
        return tuple(tuple(layers) for layers in found)

    def to_json(self) -> str:
        """Plain JSON; index maps as runs of [first unit, length, repeat]."""
        data = {
            "format": FORMAT,
            "input_shape": list(self.input_shape),
            "groups": [[g.name, g.channels, g.granularity] for g in self.groups],
            "layers": [list(vars(layer).values()) for layer in self.layers],
            "axes": [[t, a, _runs(units)] for (t, a), units in self.axes.items()],
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "parameters": sorted(self.parameters),
            "fixed": dict(self.fixed),
        }
        if self.products:  # absent where there are none, so that older digests hold
            data["products"] = [
                [p.name, p.kind, p.macs, [_runs(side) for side in p.sides]] for p in self.products
            ]
        if self.uncounted:
            data["uncounted"] = list(self.uncounted)
        if self.attributes:
            data["attributes"] = [
                [a.module, a.name, a.index, _runs(a.units)] for a in self.attributes
            ]
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> ChannelGraph:
        data = json.loads(text)
        if data.get("format") != FORMAT:
            raise ValueError(f"channel graph of format {data.get('format')}, this reads {FORMAT}")
        return cls(
            input_shape=tuple(data["input_shape"]),
            groups=tuple(Group(*row) for row in data["groups"]),
            layers=tuple(Layer(*row) for row in data["layers"]),
            axes={(t, a): _from_runs(runs) for t, a, runs in data["axes"]},
            shapes={name: tuple(shape) for name, shape in data["shapes"].items()},
            parameters=frozenset(data["parameters"]),
            fixed=data["fixed"],
            products=tuple(
                Product(name, kind, macs, tuple(_from_runs(side) for side in sides))
                for name, kind, macs, sides in data.get("products", [])
            ),
            uncounted=tuple(data.get("uncounted", [])),
            attributes=tuple(
                Attribute(module, name, index, _from_runs(units))
                for module, name, index, units in data.get("attributes", [])
            ),
        )

    def digest(self) -> str:
        """Short hash of the structure: equal for equal networks, whatever their weights."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _runs(units: np.ndarray) -> list[list[int]]:
    """Index map as runs [first, length, repeat]: first … first+length-1, each `repeat` times."""
    change = np.flatnonzero(np.diff(units)) + 1
    starts = np.concatenate([[0], change])
    counts = np.diff(np.concatenate([starts, [len(units)]]))
    runs: list[list[int]] = []
    for unit, count in zip(units[starts].tolist(), counts.tolist(), strict=True):
        if runs and count == runs[-1][2] and unit == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([unit, 1, count])
    return runs


def _from_runs(runs: Sequence[Sequence[int]]) -> np.ndarray:
    parts = [np.repeat(np.arange(first, first + n), repeat) for first, n, repeat in runs]
    return np.concatenate(parts).astype(np.int64)
