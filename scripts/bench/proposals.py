#!/usr/bin/env python3
"""Hypervolume against trials for samplers and proposals; epochs with and without early stopping.

On the surface of ResNet-56 that surface.py describes, by the Study itself and without Ray. What a
search has found is judged by noise-free accuracies of the frontier that it chose by noisy ones.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from benchmark import emit, table
from numpy.typing import NDArray
from surface import Surface
from surface_search import Array, Bench, Variant, outcome_of
from surface_stopping import early_stopping

from search.pareto.strata import Strata
from search.study.candidate import Candidate

RANGE = Strata(0.05, 1.0, bins=10)
MARKS = (20, 40, 60, 100, 200)

BARE = Variant(sampler="tpe", seeds=False, stratify=False)
VARIANTS = {
    "independent": Variant(sampler=None, trials=200),
    "random": replace(BARE, sampler="random", trials=200),
    "nsga2": replace(BARE, sampler="nsga2", trials=200),
    "tpe": replace(BARE, trials=200),
    "gp": replace(BARE, sampler="gp", trials=40),
    "default": Variant(trials=200),
    "ehvi": Variant(sampler="ehvi", trials=200),
    "ehvi, 32 workers": Variant(sampler="ehvi", workers=32),
    "default, no seeds": Variant(seeds=False),
    "default, no strata": Variant(stratify=False),
    "default, no offsets": Variant(offsets="none"),
    "default, offsets by group": Variant(offsets="group"),
    "default, offsets to 0.3": Variant(offset_range=0.3),
    "default, offsets to 0.7": Variant(offset_range=0.7),
    "default, offsets to 0.9": Variant(offset_range=0.9),
}


def proposals(
    bench: Bench, variant: Variant, seed: int, seconds: list[float]
) -> tuple[NDArray[np.int64], Array]:
    """Widths [trials, groups] in the order tried, and their noisy accuracies.

    seconds: filled with the CPU seconds of each proposal.
    """
    noisy = Surface(seed=seed)
    if variant.sampler is None:
        share = np.random.default_rng(seed).uniform(0.1, 1, (variant.trials, 30))
        W = bench.lat.snap(bench.graph.widths * share)
        return W, np.array([noisy.curve(w)[-1] for w in W])
    study, rng = bench.study(variant, seed, variant.workers), np.random.default_rng(seed)
    running: list[Candidate] = []
    while study.finished < variant.trials:
        while study.finished + len(running) < variant.trials and len(running) < variant.workers:
            began = time.process_time()
            if (candidate := study.ask()) is None:
                break
            seconds.append(time.process_time() - began)
            running.append(candidate)
        if not running:
            break
        ended = running.pop(int(rng.integers(len(running))))
        study.tell(ended.trial_id, outcome_of(ended, noisy.curve(ended.widths or ())))
    rows = [row for row in study.rows if row.status == "complete"]
    return np.array([row.widths for row in rows]), np.array([row.score_val for row in rows], float)


def sample_efficiency(bench: Bench, names: Sequence[str], seeds: int) -> dict[str, Array]:
    """Hypervolume [seeds, trials + 1] of each variant; prints JSON lines and a table."""
    volumes, lines = {}, []
    for name in names:
        variant, began = VARIANTS[name], time.process_time()
        asked: list[float] = []
        curves, bins = [], []
        for seed in range(seeds):
            W, noisy = proposals(bench, variant, seed, asked)
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
            proposal_s_at_the_end=float(np.mean(asked[-20:])) if asked else None,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 seeds instead of 10")
    parts = [*VARIANTS, "early-stopping"]
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
        chosen = ("independent", "default")
        early_stopping(bench, seeds, {name: VARIANTS[name] for name in chosen})


if __name__ == "__main__":
    main()
