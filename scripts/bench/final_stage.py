#!/usr/bin/env python3
"""What a smaller final stage costs: hypervolume and epochs by final_points, smoothed or not.

On the surface of ResNet-56: after 200 trials the members are chosen as the search chooses them, by
noisy accuracies, and judged by their noise-free ones, as many final trainings would tell them.
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
from benchmark import emit, table
from surface import EPOCHS, Surface
from surface_search import Bench, Variant, outcome_of

from search.pareto import front
from search.storage import Row
from search.study.ehvi.finalists import finalists

TRIALS = 200
FINAL_EPOCHS, SEEDS = 40, 2  # of cifar10-resnet56; a third seed where neighbours overlap
COUNTS = (32, 24, 16, 12)


def searched(bench: Bench, seed: int) -> list[Row]:
    noisy = Surface(seed=seed)
    study = bench.study(Variant(sampler="ehvi"), seed)
    while study.finished < TRIALS and (candidate := study.ask()):
        study.tell(candidate.trial_id, outcome_of(candidate, noisy.curve(candidate.widths or ())))
    return study.rows


def volume(bench: Bench, rows: list[Row]) -> float:
    W = np.array([row.widths for row in rows])
    points = np.column_stack([bench.cost.macs(W), bench.truth.end(W)])
    return front.hypervolume(points, bench.reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    bench = Bench()
    found: dict[str, list[tuple[float, int]]] = {}
    for seed in range(options.seeds):
        rows = searched(bench, seed)
        single = [rows[i] for i in front.front(front.points_of(rows))]
        found.setdefault("frontier of single trainings", []).append(
            (volume(bench, single), len(single))
        )
        for count in COUNTS:
            chosen = finalists(rows, count, bench.graph, bench.cost, bench.reference)
            name = f"smoothed, {count or 'all'}"
            found.setdefault(name, []).append((volume(bench, chosen), len(chosen)))
            if count and len(single) > count:
                points = front.points_of(single)
                some = [single[i] for i in front.subset(points, count, bench.reference)]
                found.setdefault(f"single, {count}", []).append((volume(bench, some), len(some)))
    lines = []
    for name, values in found.items():
        volumes, counts = np.array(values, dtype=float).T
        epochs = counts.mean() * FINAL_EPOCHS * SEEDS
        emit(
            "final_stage",
            members=name,
            hypervolume=volumes.mean(),
            count=counts.mean(),
            epochs=epochs,
        )
        lines.append((name, f"{volumes.mean():.4f}", counts.mean(), epochs, TRIALS * EPOCHS))
    heads = ("members", "hypervolume", "points", "epochs of final trainings", "of the search")
    table(f"after {TRIALS} trials, mean of {options.seeds} seeds", heads, lines)


if __name__ == "__main__":
    main()
