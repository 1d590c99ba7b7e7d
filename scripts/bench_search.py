#!/usr/bin/env python3
"""Hypervolume against trials for samplers and proposals; epochs with and without early stopping.

On the surface of ResNet-56 that surface.py describes, by the Study itself and without Ray. What a
search has found is judged by noise-free accuracies of the frontier that it chose by noisy ones.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from benchmark import emit, table
from numpy.typing import NDArray
from surface import EPOCHS, Surface

from pruning import zoo
from pruning.cost import Cost
from pruning.graph import ChannelGraph
from pruning.tracer import trace
from pruning.widths import fit, lattice, uniform
from search import pareto, scheduler
from search.candidate import Candidate, Outcome, Seed
from search.ledger import Ledger, Row
from search.space import WidthProposal
from search.strata import Strata
from search.study import Study

RANGE = Strata(0.05, 1.0, bins=10)
MARKS = (20, 40, 100, 200)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """How a study proposes. trials: of each run; sampler None: independent random widths."""

    sampler: str | None = "tpe"
    seeds: bool = True
    stratify: bool = True
    offsets: str = "auto"
    offset_range: float = 0.5
    trials: int = 100


BARE = Variant(seeds=False, stratify=False)
VARIANTS = {
    "independent": Variant(sampler=None, trials=200),
    "random": replace(BARE, sampler="random", trials=200),
    "nsga2": replace(BARE, sampler="nsga2", trials=200),
    "tpe": replace(BARE, trials=200),
    "gp": replace(BARE, sampler="gp", trials=40),
    "default": Variant(trials=200),
    "default, no seeds": Variant(seeds=False),
    "default, no strata": Variant(stratify=False),
    "default, no offsets": Variant(offsets="none"),
    "default, offsets by group": Variant(offsets="group"),
    "default, offsets to 0.3": Variant(offset_range=0.3),
    "default, offsets to 0.7": Variant(offset_range=0.7),
    "default, offsets to 0.9": Variant(offset_range=0.9),
}


class Memory(Ledger):
    """A ledger without files."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = list(rows)

    def write(self, row: Row) -> bool:
        self._rows.append(row)
        return True

    def rows(self) -> list[Row]:
        return list(self._rows)


class Bench:
    """ResNet-56 with its surface, and the judge of what a search has found."""

    def __init__(self) -> None:
        self.graph: ChannelGraph = trace(zoo.resolve("resnet56"), (3, 32, 32))
        self.cost, self.lat = Cost(self.graph), lattice(self.graph, None, 0.1)
        self.truth = Surface(noise=False)
        self.reference = pareto.reference_point(self.cost.base_macs, 10)

    def study(self, variant: Variant, seed: int, concurrency: int = 1) -> Study:
        space = WidthProposal(
            self.graph,
            self.cost,
            self.lat,
            low=1e-6,
            offsets=variant.offsets,
            offset_range=variant.offset_range,
        )
        return Study(
            space,
            Memory(),
            self.cost,
            self.lat,
            sampler=variant.sampler or "random",
            seeds=self.seeds() if variant.seeds else (),
            seed=seed,
            strata=Strata(space.low, space.high) if variant.stratify else None,
            concurrency=concurrency,
        )

    def seeds(self) -> list[Seed]:
        """The base and uniform widths, as in search/seeds.py; no method's one-shot allocation."""
        least = self.cost.macs(self.lat.low) / self.cost.base_macs
        found = [self.graph.widths]
        for share in np.geomspace(least, 0.9, 8):
            target = share * self.cost.base_macs
            found.append(fit(self.cost, lambda t: uniform(self.graph, self.lat, t), target))
        return [Seed(f"seed {i}", "uniform", tuple(w.tolist())) for i, w in enumerate(found)]

    def volume(self, W: NDArray[np.int64], noisy: Array) -> float:
        """Hypervolume of the true accuracies of what is on the frontier by noisy ones."""
        if not len(W):
            return 0.0
        macs = self.cost.macs(W)
        chosen = pareto.front(np.column_stack([macs, noisy]))
        true = np.column_stack([macs[chosen], self.truth.end(W[chosen])])
        return pareto.hypervolume(true, self.reference)


def proposals(bench: Bench, variant: Variant, seed: int) -> tuple[NDArray[np.int64], Array]:
    """Widths [trials, groups] in the order tried, and their noisy accuracies."""
    noisy = Surface(seed=seed)
    if variant.sampler is None:
        share = np.random.default_rng(seed).uniform(0.1, 1, (variant.trials, 30))
        W = bench.lat.snap(bench.graph.widths * share)
        return W, np.array([noisy.curve(w)[-1] for w in W])
    study = bench.study(variant, seed)
    while study.finished < variant.trials and (candidate := study.ask()):
        study.tell(candidate.trial_id, _outcome(candidate, noisy.curve(candidate.widths or ())))
    rows = [row for row in study.rows if row.status == "complete"]
    return np.array([row.widths for row in rows]), np.array([row.top1_val for row in rows], float)


def sample_efficiency(bench: Bench, names: Sequence[str], seeds: int) -> dict[str, Array]:
    """Hypervolume [seeds, trials + 1] of each variant; prints JSON lines and a table."""
    volumes, lines = {}, []
    for name in names:
        variant, began = VARIANTS[name], time.process_time()
        curves, bins = [], []
        for seed in range(seeds):
            W, noisy = proposals(bench, variant, seed)
            curves.append([bench.volume(W[:n], noisy[:n]) for n in range(len(W) + 1)])
            bins.append(RANGE.hit(bench.cost.macs(W[:40]) / bench.cost.base_macs))
        volumes[name] = np.array(curves)
        seconds = (time.process_time() - began) / seeds
        at = {n: volumes[name][:, n] for n in MARKS if n <= variant.trials}
        emit(
            "search",
            variant=name,
            seeds=seeds,
            hypervolume={n: [v.mean(), v.std(ddof=1)] for n, v in at.items()},
            bins_of_10_after_40=float(np.mean(bins)),
            cpu_s=seconds,
        )
        cells = [f"{at[n].mean():.4f} ± {at[n].std(ddof=1):.4f}" if n in at else "" for n in MARKS]
        lines.append((name, *cells, float(np.mean(bins)), seconds))
    heads = (*(f"{n} trials" for n in MARKS), "bins of 10 in 40", "CPU s")
    table(f"hypervolume, mean ± std of {seeds} seeds", ("variant", *heads), lines)
    if "independent" in volumes and "default" in volumes:
        target = volumes["independent"][:, -1].mean()
        needed = int(np.argmax(volumes["default"].mean(0) >= target))
        emit("search", default_trials_to_independent_200=needed, target_hypervolume=target)
    return volumes


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
        self.bench, self.rng, self.finished = bench, np.random.default_rng(seed), 0

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
            asked_macs=0,
            params={},
            **names,
        )

    def tell(self, trial: str, outcome: Outcome) -> None:
        self.finished += 1


def simulate(
    bench: Bench, variant: Variant, steps: Sequence[scheduler.Rung], budget: float, seed: int
) -> Stopping:
    """Four asynchronous workers train until so many epochs are spent; an epoch's time is its MACs'.

    A trial costs its epochs and, for cut, repair and scores before them, a tenth of one.
    """
    noisy = Surface(seed=seed)
    study = bench.study(variant, seed, 4) if variant.sampler else Independent(bench, seed)
    least = bench.cost.macs(bench.lat.low) / bench.cost.base_macs
    halving = scheduler.Halving(steps, Strata(least, 1.0))
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
        share = float(bench.cost.macs(widths)) / bench.cost.base_macs
        spent += 0.1 if epoch == 0 else 1
        whole = share == 1
        if epoch == EPOCHS or whole:
            W.append(widths)
            top1.append(curve[-1])
            study.tell(candidate.trial_id, _outcome(candidate, curve, epoch))
            done.append((spent, bench.volume(np.array(W), np.array(top1))))
        elif halving.judge(candidate.trial_id, epoch, share, curve[epoch]):
            study.tell(
                candidate.trial_id, replace(_outcome(candidate, curve, epoch), status="stopped")
            )
        else:
            heapq.heappush(queue, (now + 0.1 + share, number, candidate, epoch + 1, curve))
            continue
        if spent < budget:
            begin(now)
    shares = bench.cost.macs(np.array(W)) / bench.cost.base_macs
    epochs, volume = np.array(done).T
    return Stopping(epochs, volume, halving.strata.counts(shares), len(W), study.finished)


def early_stopping(bench: Bench, seeds: int, names: Sequence[str]) -> None:
    """Epochs to the hypervolume of whole trainings, and MAC bins that these fill and others not."""
    kinds = {
        "off": (),
        "mo-asha": scheduler.rungs(EPOCHS, screen=0),
        "mo-asha, screen 3": scheduler.rungs(EPOCHS, screen=3),
    }
    budgets, grid, lines = (200, 400, 600), np.arange(601.0), []
    for proposal in names:
        whole: list[Stopping] = []
        for kind, steps in kinds.items():
            runs = [simulate(bench, VARIANTS[proposal], steps, 600, s) for s in range(seeds)]
            whole = whole or runs
            target, mean = (
                np.mean([_step(r.epochs, r.volume, grid) for r in these], axis=0)
                for these in (whole, runs)
            )
            there = [mean >= target[budget] for budget in budgets]
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
                    zip(budgets, reached, strict=True)
                ),
                hypervolume_after_600_epochs=[last.mean(), last.std(ddof=1)],
                bins_left_empty=empty,
                trials=trials,
                complete=complete,
            )
            cells = ["never" if epochs is None else epochs for epochs in reached]
            spread = f"{last.mean():.4f} ± {last.std(ddof=1):.4f}"
            lines.append((proposal, kind, *cells, spread, empty, trials, complete))
    heads = ("proposals", "stopping", *(f"as {b} whole" for b in budgets), "at 600", "bins lost")
    title = "epochs to the hypervolume that whole trainings have after 200, 400 and 600"
    table(title, (*heads, "trials", "complete"), lines)


def controller(trials: int = 1000, timed: int = 60) -> None:
    """CPU time of a proposal and its result at 1,000 trials of a network with 57 groups."""
    graph = trace(zoo.resolve("resnet110"), (3, 32, 32))
    cost, lat = Cost(graph), lattice(graph, None, 0.1)
    for offsets in ("auto", "group"):
        space = WidthProposal(graph, cost, lat, low=1e-6, offsets=offsets)
        strata = Strata(space.low, space.high)
        with tempfile.TemporaryDirectory() as folder:
            study = Study(space, Ledger(folder), cost, lat, sampler="random")
            _fill(study, trials)
            study = Study(space, Ledger(folder), cost, lat, strata=strata)
            times = _fill(study, trials + timed)
        ms = 1e3 * np.array(times)
        emit(
            "controller",
            groups=len(graph.groups),
            parameters=len(space.distributions()),
            trials=trials,
            cpu_ms_median=float(np.median(ms)),
            cpu_ms_mean=float(ms.mean()),
            cpu_ms_95=float(np.quantile(ms, 0.95)),
        )


def _fill(study: Study, trials: int) -> list[float]:
    times = []
    while study.finished < trials:
        began = time.process_time()
        candidate = study.ask()
        assert candidate is not None and candidate.widths is not None
        top1 = float(1 - 0.5 / (1 + np.mean(candidate.widths) / 10))
        study.tell(candidate.trial_id, Outcome(status="complete", top1_val=top1, epochs=1))
        times.append(time.process_time() - began)
    return times


def plot(volumes: dict[str, Array], file: str) -> None:
    """Mean hypervolume against trials, a band of one standard deviation; beside it, the best."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (whole, close) = plt.subplots(1, 2, figsize=(11, 4.5), dpi=110, layout="constrained")
    last = max(values.mean(0)[-1] for values in volumes.values())
    for axes, low in ((whole, 0.8), (close, 0.97)):
        for colour, (name, values) in enumerate(volumes.items()):
            mean, spread = values.mean(0), values.std(0, ddof=1)
            trials, style = np.arange(values.shape[1]), {"color": f"C{colour % 10}"}
            if mean[-1] > low * last:
                axes.plot(trials, mean, lw=2.5 if name == "default" else 1.2, label=name, **style)
            if axes is whole:
                axes.fill_between(trials, mean - spread, mean + spread, alpha=0.12, **style)
        axes.set(xlabel="trials", ylabel="hypervolume", xlim=(0, 200), ylim=(low * last, None))
        axes.grid(alpha=0.3)
    close.set_ylim(0.97 * last, 1.003 * last)
    whole.legend(fontsize=8, loc="lower right")
    figure.suptitle("Frontier of ResNet-56 on CIFAR-10 (response surface), mean of the seeds")
    figure.savefig(file)


def _outcome(candidate: Candidate, curve: Array, epochs: int = EPOCHS) -> Outcome:
    return Outcome(
        status="complete",
        widths=candidate.widths,
        top1_recalibrated=float(curve[0]),
        top1_val=float(curve[epochs if epochs else -1]),
        epochs=float(epochs),
    )


def _step(x: Array, y: Array, grid: Array) -> Array:
    return y[np.searchsorted(x, grid, side="right") - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 seeds instead of 10")
    parts = [*VARIANTS, "early-stopping", "controller"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART")
    parser.add_argument("--plot", metavar="FILE.png")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    seeds, bench = 3 if options.quick else 10, Bench()
    if names := [name for name in options.only if name in VARIANTS]:
        volumes = sample_efficiency(bench, names, seeds)
        if options.plot:
            plot(volumes, options.plot)
    if "early-stopping" in options.only:
        early_stopping(bench, seeds, ("independent", "default"))
    if "controller" in options.only:
        controller()


if __name__ == "__main__":
    main()
