"""Refit layers of a cut network by least squares, together with the BN that follows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning.reconstruction.filters import Filter
from pruning.reconstruction.least_squares import RIDGE, factorise, regress
from pruning.reconstruction.moments import Moments, check_size
from pruning.reconstruction.rows import POSITIONS, Rows, outputs, patches, slab_rows, thinning
from pruning.reconstruction.shelf import Shelf

LEAST_ROWS = 2000


@dataclass(frozen=True)
class Settings:
    """How layers are refitted.

    positions: rows per image at most; rows: per input of a regression at most (a depthwise filter
    needs few). rounds: further regressions against what the activation that follows lets through
    of the target. The pull towards the inherited weights, in units of the mean input variance, is
    `ridge` plus `shrink` times inputs per row: the fewer the data, the stronger.
    """

    positions: int = POSITIONS
    rows: int = 128
    ridge: float = RIDGE
    shrink: float = 0.1
    rounds: int = 4


@dataclass
class Term:
    """One layer of the cut network, what it reads, and what the whole network has in its place.

    inputs: batches; target: batches of the whole network's output, after `norm` if there is one;
    rows: int64, the whole layer's outputs that were kept.
    """

    module: nn.Module
    how: Filter
    inputs: Sequence[Tensor]
    target: Sequence[Tensor]
    rows: Tensor
    exact: bool
    norm: nn.Module | None = None
    solved: bool = False

    def values(self) -> Iterator[Tensor]:
        """The layer's output as it is now, batch by batch."""
        weight, bias = folded(self.module, self.how, self.norm)
        return (self.how.apply(x, weight, bias) for x in self.inputs)

    def prior(self) -> Tensor:
        """Its weight as a regression sees it: BN scale folded in, [blocks, c, d] float64."""
        return self.how.blocks(folded(self.module, self.how, self.norm, torch.float64)[0])


def folded(
    layer: Any, how: Filter, norm: Any = None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor | None]:
    """Weight [o, i, *kernel] and bias of a layer, in evaluation mode with the BN after it."""
    weight, bias = how.turned(layer.weight.detach().to(dtype)), layer.bias
    bias = None if bias is None else bias.detach().to(dtype)
    if norm is None:
        return weight, bias
    scale = norm.weight.to(weight) * (norm.running_var.to(weight) + norm.eps).rsqrt()
    shift = norm.bias.to(weight) - norm.running_mean.to(weight) * scale
    wide = scale.view(-1, *[1] * (weight.ndim - 1))
    return weight * wide, shift if bias is None else shift + bias * scale


def refit(
    terms: Sequence[Term],
    target: Sequence[Tensor],
    rest: Sequence[Tensor] | None,
    low: float | None,
    high: float | None,
    settings: Settings,
    shelf: Shelf,
) -> None:
    """Let Σ terms come nearest to target − rest, jointly, in place; `shelf` is for their rows.

    target: batches of the whole network's sum; rest: what the cut network adds besides the terms.
    low, high: the sum is clipped there next, so that what lies beyond only has to stay beyond.
    """
    inputs = sum(patches_width(term) for term in terms)
    rows = _rows(terms, target, rest, inputs, settings, shelf)
    moments = _centred(rows)
    prior = torch.cat([term.prior() for term in terms], -1)
    factor = factorise(moments.xx, settings.ridge + settings.shrink * inputs / moments.count)
    weight, bias = regress(moments, prior, factor=factor)
    for _ in range(settings.rounds if low is not None or high is not None else 0):
        moments = _clipped(rows, weight, bias, low, high, moments)
        weight, bias = regress(moments, prior, factor=factor)
    _write(terms, weight, bias, moments)


def _rows(
    terms: Sequence[Term],
    target: Sequence[Tensor],
    rest: Sequence[Tensor] | None,
    inputs: int,
    settings: Settings,
    shelf: Shelf,
) -> Rows:
    how, chosen = terms[0].how, terms[0].rows
    images = sum(len(y) for y in target)
    wanted = max(settings.rows * inputs, LEAST_ROWS) / images
    every = thinning(target[0], how, min(settings.positions, wanted))

    def parts() -> Iterator[list[Tensor]]:
        for i, y in enumerate(target):
            goal = outputs(y, how, every, i)[..., chosen].unflatten(-1, (how.groups, -1))
            columns = [goal[0].movedim(1, 0)]
            columns += [outputs(rest[i], how, every, i, how.groups)] if rest else []
            read = [term.inputs[i] for term in terms]
            each = columns[0].shape[1] // len(y)  # rows of one image
            few = max(1, slab_rows(how.groups, inputs) // (4 * each))
            for a in range(0, len(y), few):
                own = zip(terms, read, strict=True)
                x = [patches(values[a : a + few], term.how, every, i) for term, values in own]
                part = slice(a * each, (a + few) * each)
                yield [torch.cat(x, -1), *(column[:, part] for column in columns)]

    return Rows.gather(parts(), shelf)


def _clipped(
    rows: Rows,
    weight: Tensor,
    bias: Tensor,
    low: float | None,
    high: float | None,
    before: Moments,
) -> Moments:
    """Moments with the target moved to the prediction where clipping hides the difference.

    Each such regression lowers E|clip(prediction) − clip(target)|²'s upper bound.
    """
    shift = bias + (weight @ before.mean_x.unsqueeze(-1)).squeeze(-1)
    centre = before.mean_y.unsqueeze(-2)
    total_x, total_y, xy = (torch.zeros_like(m) for m in (before.mean_x, before.mean_y, before.xy))
    for x, goal, known in rows.slabs():
        made = x @ weight.mT.to(x) + shift.unsqueeze(-2).to(x)
        made = made if known is None else made + known
        wanted = goal
        if low is not None:
            wanted = torch.where(goal <= low, made.clamp(max=low), wanted)
        if high is not None:
            wanted = torch.where(goal >= high, made.clamp(min=high), wanted)
        y = (wanted if known is None else wanted - known) - centre.to(x)
        total_x.add_(x.sum(-2))
        total_y.add_(y.sum(-2))
        xy.add_(y.mT @ x)
    mean = total_y / before.count  # of targets less the centre
    xy -= mean.unsqueeze(-1) * total_x.unsqueeze(-2)
    return replace(before, mean_y=before.mean_y + mean, xy=xy / before.count)


def _centred(rows: Rows) -> Moments:
    """Moments of the rows; their x are left less its mean."""
    check_size(rows.x[0])
    count = 0
    sums: list[Tensor] = []
    for x, goal, known in rows.slabs():
        count += x.shape[-2]
        y = goal if known is None else goal - known
        parts = (x.sum(-2).double(), y.sum(-2).double())
        sums = [*parts] if not sums else [a + b for a, b in zip(sums, parts, strict=True)]
    mean_x, mean_y = (total / count for total in sums)
    rows.x.update(lambda x: x.sub_(mean_x.unsqueeze(-2).to(x)))
    found: list[Tensor] = []
    for x, goal, known in rows.slabs():
        y = (goal if known is None else goal - known) - mean_y.unsqueeze(-2).to(x)
        products = [x.mT @ x, y.mT @ x, y.square().sum(-2)]
        if found:
            for total, product in zip(found, products, strict=True):
                total.add_(product)
        else:
            found = [product.double() for product in products]
    xx, xy, yy = (total.div_(count) for total in found)
    return Moments(count, mean_x, mean_y, xx, xy, yy)


def _write(terms: Sequence[Term], weight: Tensor, bias: Tensor, moments: Moments) -> None:
    """Store W and b in the layers and their BNs; the intercept goes to one of them."""
    sinks = [t for t in terms if t.norm is not None or t.module.bias is not None]
    sink = (sinks or list(terms))[0]
    start = 0
    for term in terms:
        width = patches_width(term)
        part = slice(start, start + width)
        start += width
        own = weight[..., part]
        shift = bias.flatten() if term is sink else torch.zeros_like(bias).flatten()
        if term.norm is None:
            _store(term, own, shift if term is sink else None)
        else:
            _write_normed(term, own, shift, moments, part)


def _write_normed(term: Term, weight: Tensor, shift: Tensor, moments: Moments, part: slice) -> None:
    """BN gets the refitted layer's true statistics, so that measuring them anew changes nothing.

    Filters keep their norms: with BN these set the pace of fine-tuning, not the function.
    """
    norm = term.norm
    assert norm is not None
    mean = (weight @ moments.mean_x[..., part].unsqueeze(-1)).flatten()
    variance = (weight @ moments.xx[..., part, part] * weight).sum(-1).flatten().clamp_min(0)
    old = term.how.turned(term.module.weight).double()  # type: ignore[arg-type]
    old = old.flatten(1).norm(dim=1)
    new = weight.flatten(0, 1).norm(dim=1)
    size = torch.where((old > 0) & (new > 0), old / new.clamp_min(1e-300), torch.ones_like(new))
    scaled = (weight.flatten(0, 1) * size[:, None]).view_as(weight)
    _store(term, scaled, torch.zeros_like(shift))
    norm.running_mean.copy_(size * mean)  # type: ignore[operator]
    norm.running_var.copy_(size.square() * variance)  # type: ignore[operator]
    norm.weight.copy_((norm.running_var.double() + _eps(term)).sqrt() / size)  # type: ignore[operator]
    norm.bias.copy_(shift + mean)  # type: ignore[operator]


def _store(term: Term, blocks: Tensor, bias: Tensor | None) -> None:
    """Into the tensors that are there; a bias that is missing and not zero is added."""
    module = term.module
    module.weight.copy_(term.how.turned(term.how.weight(blocks)))  # type: ignore[operator]
    if module.bias is not None:
        module.bias.copy_(torch.zeros_like(module.bias) if bias is None else bias)  # type: ignore
    elif bias is not None and bool(bias.any()):
        module.bias = nn.Parameter(bias.to(module.weight))  # type: ignore[arg-type]


def patches_width(term: Term) -> int:
    """Columns of one term: kernel × channels that a block reads."""
    return term.how.turned(term.module.weight)[0].numel()  # type: ignore[arg-type]


def _eps(term: Term) -> float:
    return term.norm.eps  # type: ignore[union-attr, return-value]
