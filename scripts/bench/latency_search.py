#!/usr/bin/env python3
"""Searches by latency and by MACs beside each other: whose networks are faster at equal accuracy?

The same network, images, recipe, seed and trials, once with --search.cost latency (ONNX Runtime,
one thread) and once with macs; then every point of both frontiers is timed whole in ONNX Runtime on
one thread, in turns. A level of accuracy is that of a point (mean on test); at each the fastest
point of either frontier that is as good is taken, and, interpolated, what lies between two points.

What is done is not done again: the same command goes on. Time it on a machine that does nothing
else. DATA is a folder with cifar10/ or tiny_imagenet/ (Parquet), WEIGHTS a file.

Usage: scripts/bench/latency_search.py digits|resnet20|lite0 [--data DATA] [--weights WEIGHTS]
       [--out FOLDER] [--trials N] [--rounds 5] [-- --finetune.epochs 0.1 …]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark import emit, table

import pruning
from pruning.latency import OnnxRuntime, threads
from pruning.models import checkpoint

COSTS = ("latency", "macs")
COMMON = [
    "--latency.runtime=onnxruntime",
    "--search.final_seeds=0",  # a member keeps its trial's weights, tested
    "--search.sampler=ehvi",
    "--resources.gpus_per_trial=0",
]
# CPU-sized: repaired networks with little or no training
SETTINGS: dict[str, list[str]] = {
    "digits": ["digits", "--base.epochs=10", "--finetune.epochs=1"],
    "resnet20": [
        "cifar10-resnet20",
        "--data.root={data}/cifar10",
        "--data.val=last:5000",
        "--model.weights={weights}",
        "--search.repair=compensate",
        "--finetune.epochs=0.05",
        "--finetune.batch=128",
        "--finetune.lr=0.01",
    ],
    "lite0": [
        "--model.name=timm:tf_efficientnet_lite0",
        "--model.weights={weights}",
        "--data.name=parquet",
        "--data.root={data}/tiny_imagenet",
        "--data.image_size=96",
        "--data.mean=[0.5,0.5,0.5]",
        "--data.std=[0.5,0.5,0.5]",
        "--search.repair=compensate",
        "--finetune.epochs=0",
    ],
}
Point = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=list(SETTINGS))
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--weights", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5, help="timings of each point, in turns")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:end])
    options.flags = sys.argv[end + 1 :]
    runs = {cost: options.out / f"{options.network}-{cost}" for cost in COSTS}
    for cost, place in runs.items():
        search(options, cost, place)
    points = timed(runs, options.rounds, options.out / f"{options.network}-times.json")
    rows = compared(points["latency"], points["macs"])
    for row in rows:
        emit("latency_search", network=options.network, trials=options.trials, **row)
    for name in ("saved", "saved_interpolated"):
        found = [row[name] for row in rows if row[name] is not None]
        if found:
            emit(f"latency_search {name}", best=max(found), worst=min(found), levels=len(found))
    title = f"{options.network}: milliseconds at equal accuracy, ONNX Runtime on one thread"
    shown = [["–" if v is None else v for v in row.values()] for row in rows]
    table(title, [name.replace("_", " ") for name in rows[0]] if rows else [], shown)


def search(options: argparse.Namespace, cost: str, place: Path) -> None:
    """One run by the command line; a complete one says so and is left alone."""
    known = {"data": options.data, "weights": options.weights}
    flags = [flag.format(**known) for flag in SETTINGS[options.network]]
    command = [sys.executable, "-m", "search", "search", *flags, *COMMON, *options.flags]
    command += [f"--trials={options.trials}", f"--search.cost={cost}", f"--out={place}"]
    subprocess.run(command, check=True)


def timed(runs: dict[str, Path], rounds: int, kept: Path) -> dict[str, list[Point]]:
    """By cost, the frontier's points: accuracy on test, MACs, least ms of `rounds` timings.

    All points of all runs in turns, each round in an order of its own; each timing is a median. The
    least of them is what other work on the machine moves least. Kept in a file for as long as the
    frontiers stay what they are.
    """
    found = {cost: json.loads(_frontier(place))["points"] for cost, place in runs.items()}
    every = [(cost, p) for cost, q in found.items() for p in q if p["score_test_mean"] is not None]
    keys = [[cost, p["trial_id"], p["score_test_mean"], rounds, "least"] for cost, p in every]
    if kept.is_file() and (known := json.loads(kept.read_text()))["keys"] == keys:
        return dict(known["points"])
    files = [runs[cost] / "points" / f"{p['rank']:03d}" / "model.safetensors" for cost, p in every]
    runtime, ms = OnnxRuntime(), np.empty((rounds, len(files)))
    with threads(1):
        for i in range(rounds):
            for j in np.random.default_rng(i).permutation(len(files)).tolist():
                model, shape = pruning.load(files[j]), checkpoint.info(files[j]).input_shape
                ms[i, j] = runtime.network(model, shape).median_ms
    points: dict[str, list[Point]] = {cost: [] for cost in runs}
    for (cost, point), own in zip(every, ms.T, strict=True):
        names = {"accuracy": "score_test_mean", "macs": "macs"}
        values = {name: float(point[column]) for name, column in names.items()}
        points[cost].append(values | {"ms": float(own.min())})
    kept.write_text(json.dumps({"keys": keys, "points": points}))
    return points


def compared(fast: list[Point], lean: list[Point]) -> list[dict[str, Any]]:
    """A row for each accuracy that either frontier has and both reach. saved: share of the ms."""
    both = min(max(p["accuracy"] for p in fast), max(p["accuracy"] for p in lean))
    levels = sorted({p["accuracy"] for p in (*fast, *lean) if p["accuracy"] <= both})
    rows = []
    for level in levels:
        ours, theirs = (min(p["ms"] for p in q if p["accuracy"] >= level) for q in (fast, lean))
        between = [_between(q, level) for q in (fast, lean)]
        known = None not in between
        rows.append(
            {
                "accuracy": level,
                "by_latency_ms": ours,
                "by_macs_ms": theirs,
                "saved": 1 - ours / theirs,
                "by_latency_interpolated_ms": between[0],
                "by_macs_interpolated_ms": between[1],
                "saved_interpolated": 1 - between[0] / between[1] if known else None,  # type: ignore[operator]
            }
        )
    return rows


def _between(points: list[Point], level: float) -> float | None:
    """ms at an accuracy on the line through a frontier's points; None below the least accurate."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: p["ms"]):
        if not best or point["accuracy"] > best[-1]["accuracy"]:
            best.append(point)
    if level < best[0]["accuracy"]:
        return None
    return float(np.interp(level, [p["accuracy"] for p in best], [p["ms"] for p in best]))


def _frontier(place: Path) -> str:
    command = [sys.executable, "-m", "search", "frontier", str(place), "--json"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
