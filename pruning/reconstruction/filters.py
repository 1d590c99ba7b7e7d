"""How a convolution or linear layer reads its input, and the one layout of weights for regressions.

Columns of `Filter.blocks` are as `rows.patches` has them: the channel runs fastest. Convolutions of
one, two and three dimensions alike. A transposed convolution is an ordinary one, its kernel turned
round, of its input with zeros between the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from pruning.graph import Layer

Sides = tuple[int, ...]
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Filter:
    """How one layer reads its input; a linear layer is a filter of kernel ().

    stretch, extra: of a transposed convolution, its stride and output padding; stride and padding
    are then those of the ordinary one.
    """

    kernel: Sides
    stride: Sides = (1, 1)
    padding: Sides | str = (0, 0)
    dilation: Sides = (1, 1)
    groups: int = 1
    stretch: Sides = ()
    extra: Sides = ()

    @classmethod
    def of_call(
        cls,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Filter:
        """From the arguments of F.linear or of a convolution."""
        sides = max(weight.ndim - 2, 0)
        where = padding if isinstance(padding, str) else _each(padding, sides)
        return cls(
            tuple(weight.shape[2:]), _each(stride, sides), where, _each(dilation, sides), groups
        )

    @classmethod
    def of_transposed(
        cls,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Filter | None:
        """From the arguments of a transposed convolution; None for a grouped one."""
        if groups > 1:
            return None
        sides = weight.ndim - 2
        kernel, spread = tuple(weight.shape[2:]), _each(dilation, sides)
        inner = _opposite(kernel, spread, _each(padding, sides))
        wide, extra = _each(stride, sides), _each(output_padding, sides)
        return cls(kernel, (1,) * sides, inner, spread, stretch=wide, extra=extra)

    @classmethod
    def of_layer(cls, layer: Layer, kernel: Sides = ()) -> Filter:
        """How its weight is laid out, whatever else its calls say."""
        return cls(kernel, stretch=(1,) * layer.written)

    @property
    def channel_dim(self) -> int:
        """The dimension of an input or output that its channels lie along."""
        return 1 if self.kernel else -1

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer itself; the weight's shape says how many channels a block reads."""
        if not self.kernel:
            return F.linear(x, weight, bias)
        if self.stretch:
            return self._transposed(x, weight, bias)
        groups = x.shape[1] // weight.shape[1]
        convolution = CONVOLUTIONS[len(self.kernel)]
        made: Tensor = convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, groups
        )
        return made

    def _transposed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = _opposite(self.kernel, self.dilation, self.padding)
        made: Tensor = TRANSPOSED[len(self.kernel)](
            x, self.turned(weight), bias, self.stretch, padding, self.extra, 1, self.dilation
        )
        return made

    def turned(self, weight: Tensor) -> Tensor:
        """A stored weight as that of an ordinary convolution [o, i, *kernel], and the reverse."""
        if not self.stretch:
            return weight
        return weight.transpose(0, 1).flip(*range(2, weight.ndim))

    def blocks(self, weight: Tensor) -> Tensor:
        """Weight [o, i, *kernel] as [blocks, o/blocks, d], columns as `patches` has them."""
        if not self.kernel:
            return weight[None]
        return by_taps(weight).reshape(self.groups, len(weight) // self.groups, -1)

    def weight(self, blocks: Tensor) -> Tensor:
        """The inverse of `blocks`."""
        if not self.kernel:
            return blocks[0]
        flat = blocks.reshape(-1, *self.kernel, blocks.shape[-1] // math.prod(self.kernel))
        return flat.movedim(-1, 1).contiguous()


def by_taps(weight: Tensor) -> Tensor:
    """A weight [o, i, *kernel] as [o, taps, i], the order in which patches are read."""
    return weight.flatten(2).mT if weight.ndim > 2 else weight[:, None]


def _opposite(kernel: Sides, dilation: Sides, padding: Any) -> Sides:
    """Padding of a transposed convolution from that of the ordinary one, and the reverse."""
    return tuple(d * (k - 1) - p for k, d, p in zip(kernel, dilation, padding, strict=True))


def _each(value: Any, sides: int) -> Sides:
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * sides if len(given) == 1 else given


LAYER_CALLS: Mapping[Any, Callable[..., Filter | None]] = {
    F.linear: Filter.of_call,
    **dict.fromkeys(CONVOLUTIONS.values(), Filter.of_call),
    **dict.fromkeys(TRANSPOSED.values(), Filter.of_transposed),
}
"""From the arguments of a layer's call, how it reads its input; None: not as a filter."""
