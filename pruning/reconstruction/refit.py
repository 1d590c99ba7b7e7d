"""Refit layers of a cut network by least squares, together with the BN that follows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.reconstruction.covariance import POSITIONS, Filter, Sums, outputs, patches, thinning
from pruning.reconstruction.least_squares import RIDGE, Moments, factorise, regress


@dataclass(frozen=True)
class Settings:
    """How layers are refitted.

    positions: rows per image; rounds: further regressions against what the activation that follows
    lets through of the target. The pull towards the inherited weights, in units of the mean input
    variance, is `ridge` plus `shrink` times inputs per row: the fewer the data, the stronger.
    """

    positions: int = POSITIONS
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
    inputs: list[Tensor]
    target: list[Tensor]
    rows: Tensor
    exact: bool
    norm: nn.Module | None = None
    solved: bool = False

    def values(self) -> list[Tensor]:
        """The layer's output as it is now, batch by batch."""
        weight, bias = self.module.weight, self.module.bias
        results = [self.how.apply(x, weight, bias) for x in self.inputs]  # type: ignore[arg-type]
        return results if self.norm is None else [self.norm(y) for y in results]

    def prior(self) -> Tensor:
        """Its weight as a regression sees it: BN scale folded in, [blocks, c, d] float64."""
        weight: Any = self.module.weight.double()
        if self.norm is not None:
            scale: Any = (self.norm.running_var.double() + _eps(self)).rsqrt()
            scale = scale * self.norm.weight.double()
            weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        return self.how.blocks(weight)

    def kept(self, y: Tensor) -> Tensor:
        """The kept outputs of a whole one."""
        return y.index_select(1 if self.how.kernel else -1, self.rows)


def refit(
    terms: Sequence[Term],
    target: Sequence[Tensor],
    rest: Sequence[Tensor] | None,
    low: float | None,
    high: float | None,
    settings: Settings,
) -> None:
    """Let Σ terms come nearest to target − rest, jointly, in place.

    target: batches of the whole network's sum; rest: what the cut network adds besides the terms.
    low, high: the sum is clipped there next, so that what lies beyond only has to stay beyond.
    """
    first = terms[0]
    every = thinning(target[0], first.how, settings.positions)
    rows: list[tuple[Tensor, Tensor, Tensor | float]] = []
    sums = Sums()
    for i, y in enumerate(target):
        x = torch.cat([patches(t.inputs[i], t.how, every, i) for t in terms], -1)
        groups = first.how.groups
        goal = outputs(first.kept(y), first.how, every, i, groups)
        known = 0.0 if rest is None else outputs(rest[i], first.how, every, i, groups)
        sums.add(x, goal - known)
        if settings.rounds and (low is not None or high is not None):
            rows.append((x, goal, known))
    moments = sums.moments()
    prior = torch.cat([term.prior() for term in terms], -1)
    pull = settings.ridge + settings.shrink * x.shape[-1] / moments.count
    factor = factorise(moments.xx, pull)
    weight, bias = regress(moments, prior, factor=factor)
    for _ in range(settings.rounds if rows else 0):
        moments = _clipped(rows, weight, bias, low, high, moments)
        weight, bias = regress(moments, prior, factor=factor)
    _write(terms, weight, bias, moments)


def _clipped(
    rows: Sequence[tuple[Tensor, Tensor, Tensor | float]],
    weight: Tensor,
    bias: Tensor,
    low: float | None,
    high: float | None,
    before: Moments,
) -> Moments:
    """Moments with the target moved to the prediction where clipping hides the difference.

    Each such regression lowers E|clip(prediction) − clip(target)|²'s upper bound.
    """
    sums = Sums()
    for x, goal, known in rows:
        made = x @ weight.mT.to(x) + bias.unsqueeze(-2).to(x) + known
        wanted = goal
        if low is not None:
            wanted = torch.where(goal <= low, made.clamp(max=low), wanted)
        if high is not None:
            wanted = torch.where(goal >= high, made.clamp(min=high), wanted)
        sums.add(x, wanted - known, with_xx=False)
    return sums.moments(before.xx)


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
            _store(term.module, term.how.weight(own), shift if term is sink else None)
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
    old = term.module.weight.double().flatten(1).norm(dim=1)
    new = weight.flatten(0, 1).norm(dim=1)
    size = torch.where((old > 0) & (new > 0), old / new.clamp_min(1e-300), torch.ones_like(new))
    scaled = (weight.flatten(0, 1) * size[:, None]).view_as(weight)
    _store(term.module, term.how.weight(scaled), torch.zeros_like(shift))
    norm.running_mean.copy_(size * mean)  # type: ignore[operator]
    norm.running_var.copy_(size.square() * variance)  # type: ignore[operator]
    norm.weight.copy_((norm.running_var.double() + _eps(term)).sqrt() / size)  # type: ignore[operator]
    norm.bias.copy_(shift + mean)  # type: ignore[operator]


def _store(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Into the tensors that are there; a bias that is missing and not zero is added."""
    module.weight.copy_(weight)  # type: ignore[operator]
    if module.bias is not None:
        module.bias.copy_(torch.zeros_like(module.bias) if bias is None else bias)  # type: ignore
    elif bias is not None and bool(bias.any()):
        module.bias = nn.Parameter(bias.to(module.weight))  # type: ignore[arg-type]


def patches_width(term: Term) -> int:
    """Columns of one term: kernel × channels that a block reads."""
    return term.module.weight[0].numel()  # type: ignore[index, operator]


def _eps(term: Term) -> float:
    return term.norm.eps  # type: ignore[union-attr, return-value]
