"""Operations that run along dimensions: sums, means, softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from pruning.graph.tracing.labels import give, labels_of, once, tensors_in, varying
from pruning.graph.tracing.record import Record
from pruning.graph.tracing.rules import pointwise

REDUCE = """mean sum amax amin std var var_mean std_mean max min logsumexp prod any all argmax
    argmin median norm nanmean nansum""".split()
KEEP = "softmax log_softmax softmin".split()
ORDERED = "roll flip cumsum cumprod sort argsort".split()  # the order along a dimension counts


def reduce(record: Record, out: Any, input: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Mean over an image, sum over branches; not over channels.

    Branches [B, branches, C] that are summed up have their channels tied: x[:, 0] + x[:, 1].
    """
    if any(isinstance(a, Tensor) for a in args):
        return pointwise.elementwise(record, out, input, *args, **kwargs)  # max of two tensors
    keepdim = next(iter(tensors_in(out))).ndim == input.ndim
    labels = _free_along(record, input, _dims(input, args, kwargs), tie=True)
    if labels is None:
        return False
    for dim in sorted(_dims(input, args, kwargs), reverse=True):
        labels = labels.narrow(dim, 0, 1) if keepdim else labels.select(dim, 0)
    for result in tensors_in(out):
        give(result, labels)
    return True


def keep(record: Record, out: Any, input: Tensor, *args: Any, tie: bool, **kwargs: Any) -> bool:
    """Softmax over branches or positions; not over channels."""
    labels = _free_along(record, input, _dims(input, args, kwargs), tie=tie)
    if labels is None:
        return False
    for result in tensors_in(out):
        give(result, labels)
    return True


def _free_along(record: Record, input: Tensor, dims: list[int], tie: bool) -> Tensor | None:
    """The labels, alike along `dims`: tied where other dimensions tell channels apart."""
    labels = labels_of(input)
    if labels is None:
        return None
    changes = varying(labels)
    small = once(labels)
    for dim in dims:
        if dim in changes:
            if not tie or not set(changes) - set(dims):
                return None
            small = record.tie_across(small, dim)
    return small.expand(input.shape)


def _dims(input: Tensor, args: Any, kwargs: Any) -> list[int]:
    given = kwargs.get("dim", kwargs.get("dims", kwargs.get("axis")))
    if given is None:
        # torch.flip(x, dims), x.roll(shifts, dims): the dimensions come last
        given = next((a for a in reversed(args) if isinstance(a, int | tuple | list)), None)
        if isinstance(given, bool):
            given = next((a for a in args if isinstance(a, int | tuple | list)), None)
    if given is None:
        return list(range(input.ndim))
    dims = [given] if isinstance(given, int) else list(given)
    return [dim % input.ndim for dim in dims]


RULES: Mapping[str, Callable[..., bool]] = {
    **dict.fromkeys(REDUCE, reduce),
    **dict.fromkeys(KEEP, partial(keep, tie=True)),
    **dict.fromkeys(ORDERED, partial(keep, tie=False)),
}
