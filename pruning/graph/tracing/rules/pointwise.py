"""Operations that treat every value by itself, or values at the same place of several tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pruning.graph.tracing.labels import along, give, labels_of, once, spread, tensors_in, varying
from pruning.graph.tracing.record import Record

NAMES = """add radd iadd sub rsub isub mul rmul imul div truediv rtruediv itruediv floordiv neg pow
    rpow ipow sqrt rsqrt square exp exp2 expm1 log log2 log10 log1p abs sign sin cos tan erf floor
    ceil round trunc frac reciprocal relu relu6 rrelu threshold hardtanh sigmoid hardsigmoid
    logsigmoid hardswish silu mish gelu elu selu celu leaky_relu softplus softsign tanh hardshrink
    softshrink tanhshrink clamp clamp_min clamp_max clip dropout dropout1d dropout2d dropout3d
    alpha_dropout feature_alpha_dropout stochastic_depth maximum minimum fmod remainder where
    masked_fill addcmul addcdiv lerp gt ge lt le eq ne isnan isinf isfinite nan_to_num logical_and
    logical_or logical_not logical_xor and or xor invert atan atan2 true_divide multiply subtract
    divide bernoulli bernoulli_ zeros_like ones_like empty_like full_like rand_like
    randn_like""".split()
SPATIAL = """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d
    max_pool3d max_pool2d_with_indices lp_pool1d lp_pool2d fractional_max_pool2d interpolate
    upsample upsample_bilinear upsample_nearest max_unpool2d grid_sample""".split()


def elementwise(record: Record, out: Tensor, *args: Any, **kwargs: Any) -> bool:
    """The operands' labels are tied, place by place: `x + shortcut`, `x * gate`."""
    if out.ndim == 0:
        return True  # one number carries no channels
    operands = [t for t in tensors_in((args, kwargs)) if t.ndim and not _one_channel(t, out)]
    labelled = [t for t in tensors_in((args, kwargs)) if labels_of(t) is not None]
    if not labelled:
        return False
    lead = _lead(operands, labelled, out)
    for tensor in operands:
        labels = labels_of(tensor)
        if labels is not None:
            record.tie(lead, labels.expand(out.shape))
        elif tensor.numel() > 1 and not _attach_operand(record, tensor, lead):
            return False
    give(out, lead)
    return True


def _lead(operands: list[Tensor], labelled: list[Tensor], out: Tensor) -> Tensor:
    """The labels that the result takes: those of the largest operand that has the channels."""
    able = [t for t in operands if labels_of(t) is not None] or labelled
    labels = labels_of(max(able, key=lambda t: t.numel()))
    assert labels is not None
    return labels.expand(out.shape)


def _one_channel(tensor: Tensor, out: Tensor) -> bool:
    """An operand with one channel is spread over all of them and ties none: a map of weights."""
    dim = tensor.ndim - out.ndim + 1
    return out.ndim > 1 and out.shape[1] > 1 and dim >= 0 and tensor.shape[dim] == 1


def _attach_operand(record: Record, tensor: Tensor, lead: Tensor) -> bool:
    """An operand that no input went into: a parameter is cut with the channels it meets.

    A layer scale [C], a table of positions [1, N, C]; a constant must not know the channels.
    """
    name = record.name_of(tensor)
    offset = lead.ndim - tensor.ndim
    small = once(lead)
    for dim in varying(lead):
        own = dim - offset
        if own < 0 or tensor.shape[own] == 1:
            continue
        if name is None:
            return False
        rows = small.movedim(dim, 0).flatten(1)
        if bool((rows != rows[:, :1]).any()):
            return False
        record.attach(name, own, rows[:, 0].clone())
    return True


def spatial(record: Record, out: Any, input: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Pooling and resampling, each channel by itself, over the dimensions after the second."""
    batched = 2 if input.ndim > 2 else 1
    labels = along(input, batched - 1)
    if labels is None or any(record.name_of(t) for t in tensors_in((args, kwargs))):
        return False
    results = list(tensors_in(out))
    changed = [r for r in results if r.shape[:batched] != input.shape[:batched]]
    if changed or (input.ndim < 3 and bool((labels != 0).any())):
        return False  # an input without a batch: its channels are pooled as positions
    for result in results:
        spread(result, labels, 1)
    return True


def pad(record: Record, out: Tensor, input: Tensor, pad: Any, *args: Any, **kwargs: Any) -> bool:
    """New borders; new channels are fixed, the old ones keep their labels."""
    labels = labels_of(input)
    if labels is None:
        return False
    changed = [i for i in range(out.ndim) if out.shape[i] != input.shape[i]]
    changes = varying(labels)
    touched = [dim for dim in changes if dim in changed]
    if not touched:
        give(out, once(labels))
        return True
    if changes != touched or len(touched) != 1:
        return False
    dim = touched[0]
    before = pad[2 * (input.ndim - 1 - dim)]
    own = along(input, dim)
    assert own is not None
    padded = torch.zeros(out.shape[dim], dtype=torch.int64)
    padded[before : before + len(own)] = own
    spread(out, padded, dim)
    return True


RULES: Mapping[str, Callable[..., bool]] = {
    **dict.fromkeys(NAMES, elementwise),
    **dict.fromkeys(SPATIAL, spatial),
    "pad": pad,
}
