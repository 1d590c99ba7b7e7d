"""From a trained network to a slim one without a gradient step: allocate, select, cut, repair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pruning.data import Batches
from pruning.errors import UserError
from pruning.graph import cut, lattice, trace
from pruning.methods import Method, Problem, State, get
from pruning.models import accepting, settle
from pruning.reconstruction import error_feedback
from pruning.training import carry_over

REPAIRS = ("auto", "none", "compensate", "feedback")


@dataclass(frozen=True)
class Slimmed:
    """A slim network. widths: int64 [groups]; pruned: its score right after the cut, if asked for;
    times in seconds."""

    model: nn.Module
    widths: np.ndarray
    pruned: float | None
    cut_s: float
    repair_s: float


def prune(
    model: nn.Module,
    batches: Batches,
    *,
    macs: float = 0.5,
    method: str = "gain-curve",
    repair: str = "auto",
    divisor: int | None = None,
    min_ratio: float = 0.1,
    scalars: Mapping[str, float] | None = None,
) -> Slimmed:
    """One-shot: a copy of `model` with about `macs` (a share, or an absolute number) of its MACs.

    `batches` gives (images [B, C, H, W], labels [B]) and can be walked again; a thousand images do.
    """
    chosen, scalars = get(method), scalars or {}
    _check(chosen, macs, repair, scalars)
    batches = batches if iter(batches) is not batches else list(batches)
    images = next((x for x, _ in batches), None)
    if images is None:
        raise UserError("no images to prune with; hand in at least one batch of (images, labels)")
    graph = trace(model, images.shape[1:])
    problem = Problem(graph, lattice(graph, divisor, min_ratio))
    target = macs * problem.cost.base_macs if macs <= 1 else macs
    least = problem.cost.macs(problem.lattice.low)
    if target < least:
        raise UserError(f"{target:.4g} MACs cannot be reached, at least {least:.4g}; raise macs")
    with accepting(model, images):
        state = chosen.prepare(model, graph, batches)
        widths = chosen.allocate(state, problem, target, **scalars)
        return slim(model, problem, chosen, state, widths, batches, repair=repair, scalars=scalars)


def slim(
    model: nn.Module,
    problem: Problem,
    method: Method,
    state: State,
    widths: Sequence[int] | np.ndarray,
    batches: Batches,
    *,
    repair: str = "auto",
    score: Callable[[nn.Module], float] | None = None,
    scalars: Mapping[str, float] | None = None,
) -> Slimmed:
    """Cut `model` (left as it is) to `widths` as `method` selects, repair, recalibrate BN.

    repair: compensate (least squares on the whole network's inputs, CaP's way), feedback (layer by
    layer, undoing what earlier cuts got wrong), none (what the method does by itself), or auto (the
    method's own choice of these).
    """
    _check_repair(repair)
    graph, began = problem.graph, _now(model)
    asked = np.asarray(widths, dtype=np.int64)
    keep = method.select(state, problem, asked, **(scalars or {}))
    small = cut(model, graph, keep)
    settle(small, graph.input_shape)
    cut_s = _now(small) - began
    pruned = score(small) if score else None
    began = _now(small)
    how = method.own_repair if repair == "auto" else repair
    if how == "none":
        method.repair(small, model, graph, state, keep)
        carry_over(small, model, graph, keep, batches)
    else:  # leaves statistics that fit
        error_feedback.repair(small, model, graph, keep, batches, feedback=how == "feedback")
    repair_s = _now(small) - began
    return Slimmed(small, graph.kept_widths(keep), pruned, cut_s, repair_s)


def _check(method: Method, macs: float, repair: str, scalars: Mapping[str, float]) -> None:
    """UserError for whatever can be refused before anything is measured."""
    _check_repair(repair)
    number = isinstance(macs, int | float) and not isinstance(macs, bool)
    if not number or not 0 < macs < math.inf:
        raise UserError(f"macs is {macs!r}; give a share as in 0.5, or a number of MACs")
    for name, value in scalars.items():
        if name not in method.scalars:
            known = ", ".join(method.scalars) or "none"
            raise UserError(f"{method.name} has no scalar {name!r}; it takes: {known}")
        low, high = method.scalars[name].low, method.scalars[name].high
        if not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f"{name} is {value!r}; {method.name} takes {low:g} to {high:g}")


def _check_repair(repair: str) -> None:
    if repair not in REPAIRS:
        raise UserError(f"no repair {repair!r}; choose one of {', '.join(REPAIRS)}")


def _now(model: nn.Module) -> float:
    """Time in seconds, read once the model's device has done what it was told."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
