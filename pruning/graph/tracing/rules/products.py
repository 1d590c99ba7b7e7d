"""Products of activations: matrix products, einsum, attention. All are counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pruning.graph.tracing.labels import give, labels_of, start, tensors_in, varying
from pruning.graph.tracing.record import Record


def matmul(record: Record, out: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Rows of the first by columns of the second; what they are contracted over stays.

    Over positions, as in a global context block: [B, 1, C, HW] @ [B, 1, HW, 1], channels pass.
    """
    macs = record.per_image(out.numel() * a.shape[-1], a, b)
    rows, columns = _outer(a, -1), _outer(b, -2 if b.ndim > 1 else -1)
    sides: list[Tensor] = []
    if rows is None or columns is None:
        return _opaque(record, "matmul", macs, out, a, b)
    for side in (rows, columns):
        if not varying(side):
            record.fix_labels(side, "is spread over other channels by a product")
    changes = [bool(varying(side)) for side in (rows, columns)]
    if all(changes):
        return _opaque(record, "matmul", macs, out, a, b)
    if changes[0]:
        rows = rows.unsqueeze(-1) if b.ndim > 1 else rows
        give(out, rows)
        sides = [rows]
    elif changes[1]:
        columns = columns.unsqueeze(-2) if a.ndim > 1 else columns
        give(out, columns)
        sides = [columns]
    else:
        start(out)
    record.product("", "matmul", macs, *(s.reshape(-1) for s in sides if len(varying(s)) == 1))
    return True


def _outer(tensor: Tensor, dim: int) -> Tensor | None:
    """Labels without the contracted dimension; None where they change along it."""
    labels = labels_of(tensor)
    if labels is None:
        labels = tensor.new_zeros((), device="cpu").long().expand(tensor.shape)
    if dim % tensor.ndim in varying(labels):
        return None
    return labels.select(dim, 0)


def addmm(record: Record, out: Tensor, added: Tensor, a: Tensor, b: Tensor, **_: Any) -> bool:
    record.fix(added, "is added to a product of matrices")
    return _opaque(record, "matmul", out.numel() * a.shape[-1] // record.images, out, a, b)


def einsum(record: Record, out: Tensor, equation: Any, *operands: Any) -> bool:
    """Counted as products of pairs from the left, as torch does them."""
    tensors = list(tensors_in(operands))
    if not isinstance(equation, str):
        return False
    inputs, _, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        letters = term.replace("...", "")
        lead = tensor.ndim - len(letters)
        shape = tensor.shape[lead:] if term.startswith("...") else tensor.shape
        sizes.update(zip(letters, shape, strict=False))
    wide = math.prod(tensors[0].shape[: tensors[0].ndim - len(terms[0].replace("...", ""))])
    macs, held = 0, set(terms[0].replace("...", ""))
    for i, term in enumerate(terms[1:], start=1):
        both = held | set(term.replace("...", ""))
        macs += math.prod(sizes[c] for c in both) * (wide if "..." in inputs else 1)
        later = set("".join(terms[i + 1 :])) | set(result)
        held = {c for c in both if c in later}
    return _opaque(record, "einsum", record.per_image(macs, *tensors), out, *tensors)


def attention(
    record: Record, out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> bool:
    """Softmax(QKᵀ)V: two products over all pairs of positions."""
    pairs = query.numel() // query.shape[-1] * key.shape[-2]
    macs = record.per_image(pairs * (query.shape[-1] + value.shape[-1]), query, key, value)
    return _opaque(record, "attention", macs, out, query, key, value)


def multi_head_attention(
    record: Record, out: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> bool:
    """torch's own attention with its four projections; sizes [L, B, E]."""
    width = query.shape[-1]
    batch = query.shape[1] if query.ndim == 3 else 1
    rows = [t.numel() // t.shape[-1] for t in (query, key, value)]
    projections = sum(
        n * t.shape[-1] * width for n, t in zip(rows, (query, key, value), strict=True)
    )
    pairs = query.shape[0] * key.shape[0] * batch * width
    macs = record.per_image(projections + rows[0] * width * width + 2 * pairs, query, key)
    for tensor in tensors_in((args, kwargs)):
        record.fix(tensor, "passes through attention")
    return _opaque(record, "attention", macs, out, query, key, value)


def recurrent(record: Record, out: Any, input: Tensor, *args: Any, **kwargs: Any) -> bool:
    """LSTM, GRU and plain recurrent layers: every weight once for each position."""
    weights = [t for t in tensors_in(args) if record.name_of(t) is not None and t.ndim == 2]
    positions = input.numel() // input.shape[-1]
    macs = record.per_image(positions * sum(w.numel() for w in weights), input)
    return _opaque(record, "recurrent", macs, out, input)


def _opaque(record: Record, kind: str, macs: int, out: Any, *operands: Tensor) -> bool:
    """A product whose channels all stay."""
    record.product("", kind, macs)
    for tensor in operands:
        record.fix(tensor, f"passes through {kind}")
    for result in tensors_in(out):
        start(result)
    return True


def flipped(record: Record, out: Tensor, b: Tensor, a: Tensor) -> bool:
    return matmul(record, out, a, b)


RULES: Mapping[str, Callable[..., bool]] = {
    **dict.fromkeys(["matmul", "mm", "bmm"], matmul),
    "rmatmul": flipped,
    **dict.fromkeys(["addmm", "baddbmm"], addmm),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], recurrent),
}
