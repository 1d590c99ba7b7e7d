"""What measuring and repairing take of memory besides what can be put aside, by the graph alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pruning.data import Workspace, part_size
from pruning.errors import MemoryBudgetError
from pruning.graph import ChannelGraph, Layer
from pruning.reconstruction.rows import POSITIONS, slab_rows

SLACK = 128e6  # of the allocator, of libraries that are loaded for it, and of all that is small
SHARE = 0.85  # of what may be held at once: the allocator keeps holes between
LARGEST_PART = 256  # images of a part that is no picture, or a small one


@dataclass(frozen=True)
class Sizes:
    """One layer as a regression sees it, and what that takes, in bytes."""

    blocks: int
    inputs: int
    outputs: int
    values: int  # of its output, for one image

    @classmethod
    def of(cls, graph: ChannelGraph, layer: Layer) -> Sizes:
        shape, blocks = graph.shapes[layer.weight], layer.conv_groups
        outputs, inputs = shape[layer.written], shape[layer.read]
        return cls(blocks, inputs * layer.kernel, outputs // blocks, outputs * layer.positions)

    @property
    def sums(self) -> float:
        """Of its moments while they are added up: float64, and rows that wait."""
        return 12.0 * self.blocks * self.inputs * (self.inputs + self.outputs)

    @property
    def moments(self) -> float:
        return 8.0 * self.blocks * self.inputs * (self.inputs + self.outputs)

    @property
    def fold(self) -> float:
        """While waiting rows become sums."""
        return 4.0 * self.blocks * self.inputs * (4 * self.inputs + 3 * self.outputs)

    @property
    def regression(self) -> float:
        """Of Σ, its factor and copies of both, of some weights, and of slabs of rows."""
        rows = 1.25 * slab_rows(self.blocks, self.inputs) + 2 * POSITIONS
        slabs = 4 * rows * self.blocks * (2.5 * self.inputs + 6 * self.outputs)
        return slabs + self.blocks * self.inputs * (44.0 * self.inputs + 48.0 * self.outputs)

    @property
    def order(self) -> float:
        """While the units that it reads are ordered: Σ, a copy and the factor's rows."""
        return self.inputs * (28.0 * self.inputs + 24.0 * self.outputs)


def activations(graph: ChannelGraph) -> float:
    """Bytes of what a network computes for one part of the images and holds at one time."""
    each = max((Sizes.of(graph, layer).values for layer in graph.layers), default=0)
    return 5 * 4.0 * images(graph) * max(each, math.prod(graph.input_shape)) + SLACK


def images(graph: ChannelGraph) -> int:
    """Images of a part."""
    return min(LARGEST_PART, part_size(graph.input_shape or (1,)))


def repairing(graph: ChannelGraph) -> float:
    """Bytes that the repair needs for the largest regression and a part of the images."""
    regressions = (Sizes.of(graph, layer).regression for layer in graph.layers)
    return activations(graph) + max(regressions, default=0.0)


def ordering(graph: ChannelGraph) -> float:
    """Bytes for the order of the group whose readers are largest."""
    sizes = [Sizes.of(graph, layer).order for layer in graph.layers]
    return SLACK + max((sum(sizes[i] for i in found) for found in graph.consumers), default=0.0)


def measuring(graph: ChannelGraph, names: Iterable[str]) -> tuple[float, float]:
    """Bytes that a pass takes for moments besides their sums; and the sums of the largest layer."""
    sizes = [Sizes.of(graph, layer) for layer in _named(graph, names)]
    rows = images(graph) * POSITIONS
    each = [s.fold + 12.0 * rows * s.blocks * (s.inputs + s.outputs) for s in sizes]
    most = max((s.sums for s in sizes), default=0.0)
    return activations(graph) + max(each, default=0.0), most


def passes(graph: ChannelGraph, names: Sequence[str], room: float) -> list[list[str]]:
    """The layers in passes whose sums need no more than `room` bytes, at least one in each."""
    found: list[list[str]] = []
    left = -1.0
    for layer in _named(graph, names):
        need = Sizes.of(graph, layer).sums
        if not found or need > left:
            found.append([])
            left = room
        found[-1].append(layer.weight)
        left -= need
    return found


def largest(graph: ChannelGraph, each: Sequence[Sequence[str]]) -> float:
    """Bytes of the sums of the pass that has most."""
    sums = (sum(Sizes.of(graph, x).sums for x in _named(graph, names)) for names in each)
    return max(sums, default=0.0)


def least_memory(graph: ChannelGraph, *, repair: bool = True) -> float:
    """Bytes below which gain curves cannot be measured, nor with `repair` the network repaired."""
    pass_, most = measuring(graph, graph.readers())
    least = max(pass_ + most, ordering(graph))
    return max(least, repairing(graph)) if repair else least


def refuse(what: str, needed: float, workspace: Workspace, instead: str) -> None:
    """MemoryBudgetError where `what` needs more bytes than the budget has."""
    if needed > workspace.bytes:
        enough = math.ceil(needed / 1e8) / 10
        raise MemoryBudgetError(
            f"{workspace.memory_gb:g} GB of memory are too few: {what} takes {enough:g} GB; set "
            f"resources.memory_gb (memory_gb in Python) to {enough:g} or more, {instead}"
        )


def _named(graph: ChannelGraph, names: Iterable[str]) -> Iterable[Layer]:
    """The layers of these weights; one that is called more than once counts once."""
    wanted = set(names)
    return {layer.weight: layer for layer in graph.layers if layer.weight in wanted}.values()
