"""Epochs with and without early stopping, on the surface's learning curves."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from benchmark import emit, table
from numpy.typing import NDArray
from surface import EPOCHS, Surface
from surface_search import Array, Bench, Variant, outcome_of

from search.pareto.strata import alike
from search.storage.row import Outcome, Row
from search.study.candidate import Candidate
from search.study.stopping.halving import Halving, rungs
from search.study.stopping.screening import Screening

BUDGETS = (200, 400, 600, 1000, 2000)  # epochs of whole trainings: up to 200 trials


@dataclass(frozen=True)
class Stopping:
    """What the simulated workers ended with: epochs spent and hypervolume after each complete row,
    and the MAC bins of complete rows."""

    epochs: Array
    volume: Array
    counts: NDArray[np.int64]
    complete: int
    trials: int


class Independent:
    """In a study's place: random independent widths, and no memory."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.rng = bench, np.random.default_rng(seed)
        self.rows: list[Row] = []

    def ask(self) -> Candidate:
        share = self.rng.uniform(0.1, 1, len(self.bench.graph.groups))
        widths = tuple(self.bench.lat.snap(self.bench.graph.widths * share).tolist())
        names = dict.fromkeys(("kind", "source", "method"), "independent")
        name = str(self.rng.integers(2**60))
        return Candidate(
            trial_id=name,
            arch_hash=name,
            widths=widths,
            scalars={},
            asked=0,
            params={},
            **names,
        )

    @property
    def finished(self) -> int:
        return len(self.rows)

    def tell(self, trial: str, outcome: Outcome) -> None:
        told = {name: getattr(outcome, name) for name in ("status", "score_repaired", "score_val")}
        macs = int(self.bench.cost.macs(np.array(outcome.widths)))
        row = Row(
            trial_id=trial,
            arch_hash=trial,
            method="",
            proposal={},
            widths=outcome.widths or (),
            macs=macs,
            params=0,
            epochs=outcome.epochs,
            **told,
        )
        self.rows.append(row)


# (candidate, epochs, MACs, noisy top-1, ended trials) -> whether the trial is stopped
Judge = Callable[[Candidate, int, int, float, Sequence[Row]], bool]


def stopping(bench: Bench, screen: float = 0, halving: bool = False) -> Judge:
    """The rules of search/study/halving.py and screening.py."""
    base = bench.cost.base_macs
    screening = Screening(screen, bench.strata, bench.reference) if screen else None
    steps = rungs(EPOCHS) if halving else ()
    similar = alike(bench.strata.low, bench.strata.high)
    rule = Halving(steps, similar, cover=bench.strata)

    def judge(trial: Candidate, epoch: int, macs: int, top1: float, rows: Sequence[Row]) -> bool:
        if epoch:
            return bool(rule.judge(trial.trial_id, epoch, macs / base, top1))
        return bool(screening and screening.judge(trial.trial_id, macs, top1, rows))

    return judge


KINDS: dict[str, Callable[[Bench], Judge]] = {
    "off": stopping,
    "mo-asha": partial(stopping, halving=True),
    "screen 5": partial(stopping, screen=5),
    "screen 5, mo-asha": partial(stopping, screen=5, halving=True),
}


def simulate(bench: Bench, variant: Variant, judge: Judge, budget: float, seed: int) -> Stopping:
    """Four asynchronous workers train until so many epochs are spent; an epoch's time is its MACs'.

    A trial costs its epochs and, for cut, repair and scores before them, a tenth of one.
    """
    noisy = Surface(seed=seed)
    study = bench.study(variant, seed, 4) if variant.sampler else Independent(bench, seed)
    spent, done = 0.0, [(0.0, 0.0)]
    W, top1 = [], []
    queue: list[tuple[float, int, Candidate, int, Array]] = []
    order = 0

    def begin(now: float) -> None:
        nonlocal order
        if (candidate := study.ask()) is not None:
            order += 1
            curve = noisy.curve(candidate.widths or ())
            heapq.heappush(queue, (now, order, candidate, 0, curve))

    for _ in range(4):
        begin(0.0)
    while queue:
        now, number, candidate, epoch, curve = heapq.heappop(queue)
        widths = np.array(candidate.widths)
        macs = int(bench.cost.macs(widths))
        share = macs / bench.cost.base_macs
        spent += 0.1 if epoch == 0 else 1
        if epoch == EPOCHS or share == 1:
            W.append(widths)
            top1.append(curve[-1])
            study.tell(candidate.trial_id, outcome_of(candidate, curve, epoch))
            done.append((spent, bench.volume(np.array(W), np.array(top1))))
        elif judge(candidate, epoch, macs, curve[epoch], study.rows):
            study.tell(
                candidate.trial_id, replace(outcome_of(candidate, curve, epoch), status="stopped")
            )
        else:
            heapq.heappush(queue, (now + 0.1 + share, number, candidate, epoch + 1, curve))
            continue
        if spent < budget:
            begin(now)
    shares = bench.cost.macs(np.array(W)) / bench.cost.base_macs
    epochs, volume = np.array(done).T
    return Stopping(epochs, volume, bench.strata.counts(shares), len(W), study.finished)


def early_stopping(bench: Bench, seeds: int, variants: Mapping[str, Variant]) -> None:
    """Epochs to the hypervolume of whole trainings, and MAC bins that these fill and others not."""
    grid, lines = np.arange(BUDGETS[-1] + 1.0), []
    for proposal, variant in variants.items():
        whole: list[Stopping] = []
        for kind, make in KINDS.items():
            runs = [simulate(bench, variant, make(bench), grid[-1], s) for s in range(seeds)]
            whole = whole or runs
            target, mean = (
                np.mean([step(r.epochs, r.volume, grid) for r in these], axis=0)
                for these in (whole, runs)
            )
            there = [mean >= target[budget] for budget in BUDGETS]
            reached = [float(grid[np.argmax(t)]) if t.any() else None for t in there]
            pairs = zip(whole, runs, strict=True)
            empty = sum(int(((full.counts > 0) & (r.counts == 0)).sum()) for full, r in pairs)
            last = np.array([r.volume[-1] for r in runs])
            trials, complete = np.mean([(r.trials, r.complete) for r in runs], axis=0)
            emit(
                "early_stopping",
                proposals=proposal,
                stopping=kind,
                seeds=seeds,
                epochs_to_the_hypervolume_of_whole_trainings=dict(
                    zip(BUDGETS, reached, strict=True)
                ),
                hypervolume_after_all_epochs=[last.mean(), last.std(ddof=1)],
                bins_left_empty=empty,
                trials=trials,
                complete=complete,
            )
            cells = ["never" if epochs is None else epochs for epochs in reached]
            spread = f"{last.mean():.4f} ± {last.std(ddof=1):.4f}"
            lines.append((proposal, kind, *cells, spread, empty, trials, complete))
    heads = ("proposals", "stopping", *(f"as {b} whole" for b in BUDGETS), "at last", "lost bins")
    title = f"epochs to the hypervolume that whole trainings have after {BUDGETS}"
    table(title, (*heads, "trials", "complete"), lines)


def step(x: Array, y: Array, grid: Array) -> Array:
    return y[np.searchsorted(x, grid, side="right") - 1]
