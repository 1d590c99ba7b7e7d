"""What passes from study to trial, as plain data: seeds, limits, candidates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pruning.graph import Cost
from search.pareto import TOP1, Metric, Strata
from search.storage import Outcome, Row

_NESTED = ("scalars", "params")


@dataclass(frozen=True)
class Seed:
    """A network to try before the sampler starts; its own widths are used, not re-decoded ones."""

    name: str
    method: str
    widths: tuple[int, ...]
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """A slim network to try. asked: what it may cost, in the unit of the run's objective.

    `widths` is None where only the method's statistics can tell them.
    """

    kind: str
    method: str
    asked: float
    widths: tuple[int, ...] | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """Bounds on the closed-form costs of a network; None is no bound."""

    max_macs: float | None = None
    min_macs: float | None = None
    max_params: float | None = None
    max_latency_ms: float | None = None

    def upper(self, cost: Cost) -> dict[str, tuple[Callable[[np.ndarray], Any], float]]:
        """What is bounded from above, by the bound's name: as a function of widths; the bound."""
        known = {"max_macs": cost.macs, "max_params": cost.params, "max_latency_ms": cost.latency}
        return {
            name: (of, bound)
            for name, of in known.items()
            if of is not None and (bound := getattr(self, name)) is not None
        }

    def constraints(self, cost: Cost, widths: np.ndarray) -> dict[str, float]:
        """Relative violations of one network by name; feasible where none is above 0."""
        found = {
            name: float(of(widths)) / bound - 1 for name, (of, bound) in self.upper(cost).items()
        }
        if self.min_macs is not None:
            found["min_macs"] = 1 - float(cost.macs(widths)) / self.min_macs
        return found

    def missed(self, cost: Cost, rows: np.ndarray) -> np.ndarray:
        """By how much float64 [N] networks miss the bounds, in logs; 0 within."""
        worst = np.log(np.maximum(self.load(cost, rows), 1))
        if self.min_macs is not None:
            worst = worst + np.log(self.min_macs / cost.macs(rows)).clip(0)
        return worst

    def load(self, cost: Cost, rows: np.ndarray, besides: str = "") -> np.ndarray:
        """Largest share float64 [N] of any upper bound, `besides` one; 0 without bounds."""
        shares = [of(rows) / b for name, (of, b) in self.upper(cost).items() if name != besides]
        return np.max([np.zeros(len(rows)), *shares], axis=0)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How a study proposes.

    Args:
        sampler: One of samplers.NAMES.
        seeds: What it proposes first.
        warm: Rows of another run, which teach the sampler and are neither counted nor skipped.
        limits: What no network may exceed.
        recipe: How trials train; a part of what tells them apart.
        strata: Every `stratify_every`-th proposal, and each after an infeasible or known one, aims
            at a bin with the fewest trials; a sampler that covers the range itself needs none.
        concurrency: Trials at a time.
        tries: Infeasible or known proposals in a row before the frontier is mutated instead.
        metric: What scores are.
        retry_failed: Run trials again that failed; their rows stay until they have ended.
        parents: Begin trials with the nearest larger network that the run has trained.
    """

    sampler: str = "tpe"
    seeds: Sequence[Seed] = ()
    warm: Sequence[Row] = ()
    limits: Limits = field(default_factory=Limits)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    strata: Strata | None = None
    stratify_every: int = 4
    concurrency: int = 1
    tries: int = 4
    retry_failed: bool = False
    parents: bool = False
    metric: Metric = TOP1


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a trial is to run; plain data. `widths` None: the trial resolves them from scalars.

    parent: the trial whose trained network it begins with; "" for the base model.
    """

    trial_id: str
    arch_hash: str
    kind: str
    source: str
    method: str
    widths: tuple[int, ...] | None
    scalars: Mapping[str, float]
    asked: float
    params: Mapping[str, Any]
    parent: str = ""

    @property
    def proposal(self) -> dict[str, Any]:
        """The ledger's `proposal` column."""
        names = ("kind", "source", "params", "scalars", "asked")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of_proposal(
        cls,
        name: str,
        digest: str,
        proposal: Proposal,
        params: Mapping[str, Any],
        source: str,
        parent: str = "",
    ) -> Candidate:
        """What a proposal asks for, under a name; source: who made it, from these parameters."""
        return cls(
            trial_id=name,
            arch_hash=digest,
            kind=proposal.kind,
            source=source,
            method=proposal.method,
            widths=proposal.widths,
            scalars=dict(proposal.scalars),
            asked=proposal.asked,
            params=params,
            parent=parent,
        )

    @classmethod
    def of_row(cls, row: Row) -> Candidate:
        """What a finished trial was to run, for running it again."""
        known = dict(row.proposal)
        asked = known.pop("asked_macs", 0)  # as runs of 0.1 have it
        return cls(
            trial_id=row.trial_id,
            arch_hash=row.arch_hash,
            method=row.method,
            widths=row.widths or None,
            parent=row.parent,
            **{"asked": asked} | known,
        )

    def row(self, outcome: Outcome, cost: Cost) -> Row:
        """The ledger's row: a trial without a finite score is not complete."""
        values = asdict(outcome)
        for name in ("score_pruned", "score_repaired", "score_val"):
            if values[name] is not None and not math.isfinite(values[name]):
                values[name] = None
        if not all(math.isfinite(v) for v in outcome.curve):
            values["curve"] = ()
        widths = np.array(outcome.widths or self.widths or (), dtype=np.int64)
        if outcome.status == "complete" and (values["score_val"] is None or not widths.size):
            found = outcome.score_val
            why = "no score or no widths reported" if found is None else f"no finite score: {found}"
            values |= {"status": "failed", "reason": why}
        values["widths"] = tuple(widths.tolist())
        values["started_at"] = outcome.started_at or datetime.now(UTC).isoformat()
        return Row(
            trial_id=self.trial_id,
            arch_hash=self.arch_hash,
            method=self.method,
            proposal=self.proposal,
            parent=self.parent,
            macs=int(cost.macs(widths)) if widths.size else 0,
            params=int(cost.params(widths)) if widths.size else 0,
            predicted_ms=predicted(cost, widths),
            **values,
        )

    def to_config(self) -> dict[str, Any]:
        """Flat plain data for Ray Tune, which takes nested names apart at "/"."""
        config = {f.name: getattr(self, f.name) for f in fields(self)}
        config["widths"] = None if self.widths is None else list(self.widths)
        return config | {name: json.dumps(dict(config[name])) for name in _NESTED}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Candidate:
        """The candidate of a trial's configuration; other keys are ignored."""
        values = {f.name: config[f.name] for f in fields(cls)}
        values |= {name: json.loads(config[name]) for name in _NESTED}
        if values["widths"] is not None:
            values["widths"] = tuple(int(w) for w in values["widths"])
        return cls(**values)


def predicted(cost: Cost, widths: Sequence[int] | np.ndarray) -> float | None:
    """Milliseconds that widths are foretold to take; None where nothing foretells them."""
    vector = np.array(widths, dtype=np.int64)
    return float(cost.latency(vector)) if cost.latency is not None and vector.size else None
