#!/usr/bin/env python3
"""Which recipe suits a repaired network: learning rates, warm-up, teacher, averages, optimiser.

A trained network is cut by gain-curve, repaired and trained for a part of an epoch, once for each
recipe and seed: the learning rates, with and without the base as the teacher, then each other
option alone beside the recipe in the middle. Top-1 on validation images with batch norm measured
anew, as trials are scored; nothing reads test.

    scripts/bench/recipes.py --data DATA --weights resnet20_45k.safetensors
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import asdict, replace

import numpy as np
import torch
import trained
from benchmark import emit, table
from torch import nn

from pruning import methods, oneshot
from pruning.data import Images
from pruning.graph import Problem, lattice
from pruning.training import Recipe, evaluate, finetune, recalibrate

BEGUN = "repaired"
OTHERS = {
    "warmup 0.1": {"warmup": 0.1},
    "warmup 0.3": {"warmup": 0.3},
    "distill 0.5": {"distill": 0.5},
    "distill 1": {"distill": 1.0},
    "temperature 2": {"temperature": 2.0},
    "batch 64": {"batch": 64},
    "batch 256": {"batch": 256},
    "weight_decay 0": {"weight_decay": 0.0},
    "label_smoothing 0.05": {"label_smoothing": 0.05},
    "ema 0.95": {"ema": 0.95},
    "clip 1": {"clip": 1.0},
    "adamw, lr 0.0003": {"optimizer": "adamw", "lr": 3e-4, "weight_decay": 0.01},
    "adamw, lr 0.001": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01},
    "adamw, lr 0.003": {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.2])
    parser.add_argument("--epochs", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.003, 0.01, 0.02, 0.05, 0.1])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = trained.load(options.network, options.weights, options.data)
    recipes = around(Recipe(epochs=options.epochs, lr=0.02, distill=0.9), options.lr)
    found: dict[str, list[str]] = {name: [] for name in (BEGUN, *recipes)}
    for share, slim in repaired(base, options.macs):
        begun = top1(slim, base, Recipe(), 0)
        emit("recipes", network=options.network, macs=share, recipe=BEGUN, top1=begun)
        found[BEGUN].append(f"{begun:.2f}")
        for name, recipe in recipes.items():
            scores = [tuned(slim, base, recipe, seed) for seed in range(options.seeds)]
            emit("recipes", network=options.network, macs=share, top1=scores, **asdict(recipe))
            found[name].append(f"{np.mean(scores):.2f} ± {np.std(scores):.2f}")
    columns = ("recipe", *(f"{share:.0%} of the MACs" for share in options.macs))
    title = f"{options.network}, {options.epochs:g} epochs after the repair: top-1 % on val"
    table(title, columns, [(name, *scores) for name, scores in found.items()])


def around(middle: Recipe, rates: list[float]) -> dict[str, Recipe]:
    """By name: the learning rates with the teacher and without, and each other option alone."""
    found = {f"lr {lr:g}": replace(middle, lr=lr) for lr in rates}
    found |= {f"lr {lr:g}, no teacher": replace(middle, lr=lr, distill=0.0) for lr in rates}
    return found | {name: replace(middle, **changes) for name, changes in OTHERS.items()}


def repaired(base: trained.Trained, shares: list[float]) -> list[tuple[float, nn.Module]]:
    """By share of the MACs, the network cut and repaired."""
    problem = Problem(base.graph, lattice(base.graph, None, 0.05))
    method, seen = methods.get("gain-curve"), base.few(1000).batches(100)
    state, found = method.prepare(base.net, base.graph, seen), []
    for share in shares:
        widths = method.allocate(state, problem, share * problem.cost.base_macs)
        found.append((share, oneshot.slim(base.net, problem, method, state, widths, seen).model))
    return found


def tuned(slim: nn.Module, base: trained.Trained, recipe: Recipe, seed: int) -> float:
    model = copy.deepcopy(slim)
    for _ in finetune(model, base.train, recipe, seed=seed, teacher=base.net):
        pass
    return top1(model, base, recipe, seed)


def top1(model: nn.Module, base: trained.Trained, recipe: Recipe, seed: int) -> float:
    """Of a copy whose batch norm is measured on augmented images, as a trial's is."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    images: Images = base.few(2048)
    recalibrate(model, images.batches(128, augment=recipe.augment, generator=generator))
    return round(100 * evaluate(model, base.val.batches(500)), 2)


if __name__ == "__main__":
    main()
