"""Layers that carry weights: convolutions, transposed ones, linear layers, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pruning.graph.tracing.labels import along, give, labels_of, once, spread, start, varying
from pruning.graph.tracing.record import Record


def conv(
    record: Record,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """The output takes the labels of the weight's axis 0, the input is tied to axis 1."""
    dim = out.ndim - weight.ndim + 1
    positions = record.per_image(out.numel() // out.shape[dim], input)
    if record.name_of(weight) is None:
        return _computed(record, out, "conv", weight, positions, input, bias)
    name = record.layer("conv", weight, bias, groups, positions)
    labels, produced = _channels(record, input, dim), record.axis(name, 0)
    if groups == 1:
        record.attach(name, 1, labels)
    else:
        # a block of a grouped convolution goes as a whole, input and output channels alike
        inside, outside = labels.view(groups, -1), produced.view(groups, -1)
        record.tie(inside, inside[:, :1])
        record.tie(outside, inside[:, :1])
        record.attach(name, 1, torch.zeros(weight.shape[1], dtype=torch.int64))
        record.sized(groups, inside[:, 0])
    spread(out, produced, dim)
    return True


def conv_transpose(
    record: Record,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> bool:
    """The weight is [inputs, outputs / groups, …]: the input is tied to axis 0."""
    dim = out.ndim - weight.ndim + 1
    positions = record.per_image(input.numel() // input.shape[dim], input)
    if record.name_of(weight) is None:
        return _computed(record, out, "conv_transpose", weight, positions, input, bias)
    name = record.layer("conv_transpose", weight, None, groups, positions, written=1)
    labels = _channels(record, input, dim)
    record.attach(name, 0, labels)
    if groups == 1:
        produced = record.axis(name, 1)
    else:
        inside = labels.view(groups, -1)
        record.tie(inside, inside[:, :1])
        # all outputs of a block carry the label of its inputs
        produced = inside[:, :1].expand(groups, weight.shape[1]).reshape(-1)
        record.attach(name, 1, torch.zeros(weight.shape[1], dtype=torch.int64))
    if (bias_name := record.name_of(bias)) is not None:
        record.attach(bias_name, 0, produced)
    spread(out, produced, dim)
    return True


def linear(
    record: Record, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> bool:
    """Like a convolution, over the last dimension.

    Where labels change along another dimension only (an MLP over positions), they pass through.
    """
    positions = record.per_image(out.numel() // out.shape[-1], input)
    if record.name_of(weight) is None:
        return _computed(record, out, "linear", weight, positions, input, bias)
    labels = labels_of(input)
    changes = varying(labels) if labels is not None else []
    mixes = labels is not None and bool(changes) and input.ndim - 1 not in changes
    name = record.layer("linear", weight, bias, 1, 0 if mixes else positions)
    if mixes:
        # its positions are channels: the product that it is shrinks with them
        assert labels is not None
        side = [once(labels).reshape(-1)] if len(changes) == 1 else []
        record.product(name.removesuffix(".weight"), "linear", positions * weight.numel(), *side)
        zeros = torch.zeros(1, dtype=torch.int64)
        record.attach(name, 1, zeros.expand(weight.shape[1]).clone())
        record.fix_labels(record.axis(name, 0), "mixes positions, not channels")
        give(out, labels.narrow(-1, 0, 1))
        return True
    record.attach(name, 1, _channels(record, input, input.ndim - 1))
    spread(out, record.axis(name, 0), out.ndim - 1)
    return True


def embedding(
    record: Record, out: Tensor, input: Tensor, weight: Tensor, *args: Any, **_: Any
) -> bool:
    """Rows of a table: its columns are the channels of the result."""
    if (name := record.name_of(weight)) is None or any(a is not None for a in args[1:2]):
        return False
    spread(out, record.axis(name, 1), out.ndim - 1)
    return True


def deform_conv(
    record: Record, out: Tensor, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any
) -> bool:
    """Counted, and fixed: its offsets are channels of another layer."""
    positions = record.per_image(out.numel() // out.shape[1], input)
    for tensor in (input, *(a for a in args if isinstance(a, Tensor))):
        record.fix(tensor, "passes through deform_conv2d")
    return _computed(record, out, "conv", weight, positions, input, None)


def _channels(record: Record, input: Tensor, dim: int) -> Tensor:
    """Labels of a layer's input channels; fixed where it mixes them."""
    labels = along(input, dim)
    if labels is not None:
        return labels
    full = labels_of(input)
    assert full is not None
    small = once(full)
    if small.shape[dim] > 1:
        # one weight reads several streams: their channels go together
        rows = small.movedim(dim, 0).flatten(1)
        record.tie(rows, rows[:, :1])
        return rows[:, 0].clone()
    record.fix(input, "a layer reads its channels as positions")
    return torch.zeros(input.shape[dim], dtype=torch.int64)


def _computed(
    record: Record,
    out: Tensor,
    kind: str,
    weight: Tensor,
    positions: int,
    input: Tensor,
    bias: Tensor | None,
) -> bool:
    """A weight that the code computes: counted, and its channels stay."""
    record.product("", kind, weight.numel() * positions)
    reason = "feeds a layer whose weight is computed"
    record.fix(input, reason)
    record.fix(weight, "a weight computed by the code")
    if bias is not None:
        record.fix(bias, reason)
    start(out)
    return True


RULES: Mapping[str, Callable[..., bool]] = {
    "conv1d": conv,
    "conv2d": conv,
    "conv3d": conv,
    "conv_transpose1d": conv_transpose,
    "conv_transpose2d": conv_transpose,
    "conv_transpose3d": conv_transpose,
    "linear": linear,
    "embedding": embedding,
    "deform_conv2d": deform_conv,
}
