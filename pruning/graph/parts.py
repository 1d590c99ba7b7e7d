"""What a ChannelGraph consists of: groups, layers, products and numbers of channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Group:
    """Coupled channels, named after their first producer.

    A *unit* is the smallest set that can go: one channel, or `granularity` channels of the producer
    where a grouped convolution ties them to each other.
    """

    name: str
    channels: int
    granularity: int = 1

    @property
    def units(self) -> int:
        return self.channels // self.granularity


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer, as it was called.

    `kernel` is the product of the kernel's sides, `positions` the outputs per image and channel
    (of a transposed convolution the inputs).
    """

    name: str
    kind: str
    weight: str
    bias: str | None
    conv_groups: int
    kernel: int
    positions: int

    @property
    def written(self) -> int:
        """The weight's axis of output channels; a transposed convolution's is 1.

        In a grouped one it is 0: there a block's inputs and outputs go together.
        """
        return int(self.kind == "conv_transpose" and self.conv_groups == 1)

    @property
    def read(self) -> int:
        """The weight's axis of input channels (of one block, in a grouped convolution)."""
        return 1 - self.written


@dataclass(frozen=True)
class Product:
    """MACs of what is no layer: products of activations, computed weights, attention.

    macs: of the whole network, for one image; sides: int64 [positions], the flat units along up to
    two axes, each of which shortens it when cut.
    """

    name: str
    kind: str
    macs: int
    sides: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Attribute:
    """A number of channels that a module keeps as an attribute and its code reads.

    units: int64 [positions], the flat units that it counts; index: its place in a tuple or list.
    """

    module: str
    name: str
    index: int | None
    units: np.ndarray
