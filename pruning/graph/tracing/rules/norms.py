"""Normalisations: by position over the batch, over each image, over channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pruning.graph.tracing.labels import along, give, labels_of, once, spread, tensors_in, varying
from pruning.graph.tracing.record import Record
from pruning.graph.tracing.rules import pointwise


def batch_norm(record: Record, out: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Channel by channel: statistics, scale and shift take the channels' labels."""
    labels = along(input, 1)
    if labels is None or not _attach_vectors(record, labels, args, kwargs):
        return False
    spread(out, labels, 1)
    return True


def prelu(record: Record, out: Tensor, input: Tensor, weight: Tensor) -> bool:
    if weight.numel() == 1:
        return pointwise.elementwise(record, out, input)
    return batch_norm(record, out, input, weight)


def layer_norm(
    record: Record,
    out: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> bool:
    """Mixes channels through their mean and variance, which the kept ones then have by themselves.

    Any channel may go; the result is the norm over those that stay, not the masked one.
    """
    labels = labels_of(input)
    changes = [] if labels is None else varying(labels)
    if labels is None:
        return False
    for tensor in (weight, bias):
        if tensor is not None:
            offset = input.ndim - tensor.ndim
            name = record.name_of(tensor)
            if name is None and changes:
                return False
            for dim in changes:
                if dim >= offset and name is not None:
                    record.attach(name, dim - offset, _one_row(record, labels, dim))
    mixed = [dim for dim in changes if dim >= input.ndim - len(normalized_shape)]
    if len(mixed) > 1 or (mixed and len(changes) > 1):
        return False
    if mixed:
        row = _one_row(record, labels, mixed[0])
        record.mixes(mixed[0], row)
        record.sized(len(row), row)
    give(out, labels)
    return True


def group_norm(
    record: Record,
    out: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> bool:
    """Each norm group goes as a whole, which is exact; a single one is like a layer norm."""
    labels = along(input, 1)
    if labels is None:
        return False
    if num_groups > 1:
        rows = labels.view(num_groups, -1)
        record.tie(rows, rows[:, :1])
    elif len(varying(labels)):
        record.mixes(1, labels)
    if not _attach_vectors(record, labels, (weight, bias), {}):
        return False
    spread(out, labels, 1)
    return True


def _attach_vectors(record: Record, labels: Tensor, args: Any, kwargs: Any) -> bool:
    """Attach the vectors among the arguments; whether all of them can be cut."""
    for tensor in tensors_in((args, kwargs)):
        if (name := record.name_of(tensor)) is not None:
            record.attach(name, 0, labels)
        elif (own := labels_of(tensor)) is not None:
            record.tie(own.reshape(-1), labels)
        elif tensor.numel() > 1 and bool((labels != 0).any()):
            return False
    return True


def _one_row(record: Record, labels: Tensor, dim: int) -> Tensor:
    rows = once(labels).movedim(dim, 0).flatten(1)
    record.tie(rows, rows[:, :1])
    return rows[:, 0].clone()


RULES: Mapping[str, Callable[..., bool]] = {
    "batch_norm": batch_norm,
    "instance_norm": batch_norm,
    "prelu": prelu,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
}
