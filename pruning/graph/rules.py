"""What each torch operation does to channel labels, one rule for each kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.graph.labels import Record, all_fixed, along, labels_of, spread, tensors_in

ELEMENTWISE = set(
    """add radd iadd sub rsub isub mul rmul imul div truediv rtruediv itruediv neg pow sqrt rsqrt
    square exp abs relu relu6 hardtanh sigmoid hardsigmoid logsigmoid hardswish silu mish gelu elu
    selu celu leaky_relu softplus softsign tanh clamp clamp_min clamp_max dropout dropout1d
    dropout2d dropout3d alpha_dropout feature_alpha_dropout maximum minimum""".split()
)
SPATIAL = set(
    """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d lp_pool2d
    interpolate upsample instance_norm""".split()
)
REDUCE = {"mean", "sum", "amax", "amin", "std", "var"}
MOVE = set(
    """flatten reshape view permute transpose squeeze unsqueeze cat concat concatenate chunk split
    getitem expand contiguous clone detach to float half bfloat16 type_as movedim swapaxes swapdims
    t unbind stack narrow select roll channel_shuffle pixel_shuffle pixel_unshuffle""".split()
)


def understood(record: Record, name: str, out: Any, args: Any, kwargs: Any) -> bool:
    """Label the results of an operation that was run; whether there was a rule for the call."""
    rule = _rule(record, name)
    try:
        return rule is not None and rule(out, *args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False  # a call of a form not foreseen costs its own channels only


def _rule(record: Record, name: str) -> Callable[..., bool] | None:
    if name in ELEMENTWISE:
        return partial(_elementwise, record)
    if name in SPATIAL:
        return partial(_spatial, record)
    if name in REDUCE:
        return lambda out, x, *a, **k: _reduce(out, x)
    if name in MOVE:
        return lambda out, *a, **k: _move(name, out, a, k)
    rules: dict[str, Callable[..., bool]] = {
        "conv1d": _conv,
        "conv2d": _conv,
        "conv3d": _conv,
        "linear": _linear,
        "batch_norm": _batch_norm,
        "prelu": _prelu,
        "pad": _pad,
    }
    return partial(rules[name], record) if name in rules else None


def _conv(
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
    if id(weight) not in record.names:
        return False
    dim = out.ndim - weight.ndim + 1
    name = record.layer("conv", weight, bias, groups, int(np.prod(out.shape[dim + 1 :])))
    labels, produced = along(input, dim), record.axis(name, 0)
    if labels is None:
        record.fix(input, "channels differ over the image")
        labels = torch.zeros(input.shape[dim], dtype=torch.int64)
    if groups == 1:
        record.attach(name, 1, labels)
    else:
        # a block of a grouped convolution goes as a whole, input and output channels alike
        inside, outside = labels.view(groups, -1), produced.view(groups, -1)
        record.tie(inside, inside[:, :1].expand_as(inside))
        record.tie(outside, inside[:, :1].expand_as(outside))
        record.attach(name, 1, torch.zeros(weight.shape[1], dtype=torch.int64))
    spread(out, produced, dim)
    return True


def _linear(
    record: Record, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> bool:
    if id(weight) not in record.names:
        return False
    name = record.layer("linear", weight, bias, 1, int(np.prod(out.shape[1:-1])))
    labels = along(input, input.ndim - 1)
    if labels is None:
        record.fix(input, "channels are not the last dimension of a linear layer's input")
        labels = torch.zeros(input.shape[-1], dtype=torch.int64)
    record.attach(name, 1, labels)
    spread(out, record.axis(name, 0), out.ndim - 1)
    return True


def _batch_norm(record: Record, out: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> bool:
    labels = along(input, 1)
    if labels is None:
        return False
    for tensor in tensors_in((args, kwargs)):
        if (name := record.names.get(id(tensor))) is not None:
            record.attach(name, 0, labels)
    spread(out, labels, 1)
    return True


def _prelu(record: Record, out: Tensor, input: Tensor, weight: Tensor) -> bool:
    if weight.numel() == 1:
        return _elementwise(record, out, input)
    return _batch_norm(record, out, input, weight)


def _spatial(record: Record, out: Any, input: Tensor, *args: Any, **kwargs: Any) -> bool:
    labels = along(input, 1)
    if labels is None:
        return False
    for result in tensors_in(out):
        spread(result, labels, 1)
    return not any(id(t) in record.names for t in tensors_in((args, kwargs)))


def _reduce(out: Tensor, input: Tensor) -> bool:
    """Mean over the image (not over channels), with or without keepdim."""
    labels = along(input, 1)
    kept = out.ndim == 2 or (out.ndim == input.ndim and out.shape[1] == input.shape[1])
    if labels is None or not kept or out.shape[1] != input.shape[1]:
        return False
    spread(out, labels, 1)
    return True


def _elementwise(record: Record, out: Tensor, *args: Any, **kwargs: Any) -> bool:
    operands = [t for t in tensors_in((args, kwargs)) if t.ndim]
    if out.ndim == 0:
        return True
    labelled = [(t, labels) for t in operands if (labels := labels_of(t)) is not None]
    if not labelled:
        return False
    # an operand with one channel is spread over all of them and ties none
    operands = [t for t in operands if not _one_channel(t, out)]
    labelled = [pair for pair in labelled if not _one_channel(pair[0], out)] or labelled
    lead = max(labelled, key=lambda pair: pair[0].numel())[1].expand(out.shape)
    for tensor in operands:
        labels = labels_of(tensor)
        if labels is not None:
            record.tie_varying(lead, labels.expand(out.shape))
        elif tensor.numel() > 1 and not _attach_operand(record, tensor, lead):
            return False
    out.labels = lead  # type: ignore[attr-defined]
    return True


def _attach_operand(record: Record, tensor: Tensor, lead: Tensor) -> bool:
    """A parameter multiplied or added channel by channel (layer scale, a position's bias)."""
    name = record.names.get(id(tensor))
    sizes = [dim for dim in range(tensor.ndim) if tensor.shape[dim] > 1]
    if name is None or len(sizes) != 1:
        return False
    dim = sizes[0] + lead.ndim - tensor.ndim
    rows = lead.movedim(dim, 0).flatten(1)
    if not bool((rows == rows[:, :1]).all()):
        return False
    record.attach(name, sizes[0], rows[:, 0].clone())
    return True


def _pad(record: Record, out: Tensor, input: Tensor, pad: Any, *args: Any, **kwargs: Any) -> bool:
    if out.shape[1] == input.shape[1]:
        return _spatial(record, out, input)
    labels = along(input, 1)
    if labels is None or len(pad) < 2 * (input.ndim - 1):
        return False
    before = pad[2 * (input.ndim - 2)]
    padded = torch.zeros(out.shape[1], dtype=torch.int64)
    padded[before : before + len(labels)] = labels
    spread(out, padded, 1)
    return True


def _move(name: str, out: Any, args: Any, kwargs: Any) -> bool:
    """Do to the labels what is done to the values."""
    inputs = [labels for t in tensors_in((args, kwargs)) if (labels := labels_of(t)) is not None]
    if not inputs or (isinstance(args[0], Tensor) and labels_of(args[0]) is None):
        return False
    moved = _on_labels(name, args, kwargs)
    if moved is None:
        return False
    for result, labels in zip(tensors_in(out), tensors_in(moved), strict=True):
        if len(inputs) == 1 and not _survives(inputs[0], labels):
            return False  # cut channels would shift where the code splits them
        result.labels = labels  # type: ignore[attr-defined]
    return True


def _one_channel(tensor: Tensor, out: Tensor) -> bool:
    dim = tensor.ndim - out.ndim + 1
    return out.ndim > 1 and out.shape[1] > 1 and dim >= 0 and tensor.shape[dim] == 1


def _survives(before: Tensor, after: Tensor) -> bool:
    """Whether an operation kept each channel whole: no split, no loss (flatten may merge)."""
    if after.ndim > before.ndim and before.unique().numel() > 1:
        sizes = [n for n in after.shape if n > 1]
        if sizes != [n for n in before.shape if n > 1]:
            return False
    return bool(torch.equal(before.unique(), after.unique()))


def _on_labels(name: str, args: Any, kwargs: Any) -> Any:
    if name in {"contiguous", "clone", "detach", "to", "float", "half", "bfloat16", "type_as"}:
        return labels_of(args[0])

    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            labels = labels_of(value)
            return all_fixed(value) if labels is None else labels
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(swap(item) for item in value)
        return value

    if name == "getitem":
        if any(index.is_meta for index in tensors_in((args[1],))):
            return None  # its values are not known
        return args[0].labels[args[1]]  # the index stays as it is
    args, kwargs = swap(args), {key: swap(value) for key, value in kwargs.items()}
    func = getattr(torch, name, None) or getattr(torch.nn.functional, name, None)
    if hasattr(Tensor, name) and isinstance(args[0], Tensor):
        return getattr(args[0], name)(*args[1:], **kwargs)
    return func(*args, **kwargs) if func else None
