#!/usr/bin/env python3
"""What a teacher of feature maps adds in segmentation and detection: the embedded scenes.

A whole network is trained, cut by gain-curve and trained for a few epochs in three ways: by the
task's loss alone, with the whole network's outputs as teacher, and with its feature maps besides.
Scores are on val, a mean over the seeds.

Usage: scripts/bench/distill_maps.py [--macs 0.5 0.2] [--epochs 2] [--seeds 2] [TASK …]
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace

import torch
from benchmark import emit, table

from pruning import Samples, prune
from pruning.training import Recipe
from search import tasks
from search.config import Config, ModelConfig

TASKS = {"scenes-segmentation": "unet", "scenes-detection": "detector"}
WAYS = {
    "loss alone": {"distill": 0.0},
    "outputs": {"distill": 0.5},
    "outputs and maps": {"distill": 0.5, "distill_maps": "auto"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.2], help="shares")
    parser.add_argument("--epochs", type=float, default=2, help="of the slim networks")
    parser.add_argument("--base-epochs", type=float, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    adamw = Recipe(optimizer="adamw", weight_decay=0.01, warmup=0.1, batch=32)
    rows: list[list[object]] = []
    for name in options.tasks:
        config = Config(task=name, model=ModelConfig(name=TASKS[name]))
        config = replace(config, finetune=replace(config.finetune, batch=32))
        task = tasks.load(config)
        work = tasks.open_task(task, config, "cpu")
        torch.manual_seed(0)
        whole = task.model()
        list(work.epochs(whole, replace(adamw, epochs=options.base_epochs, lr=0.006), seed=0))
        base = work.score(whole)
        for share in options.macs:
            samples: Samples = work.samples()
            slim = prune(whole, samples, macs=share, method="gain-curve")
            for way, teaching in WAYS.items():
                recipe = replace(adamw, epochs=options.epochs, lr=0.002, **teaching)
                scores = []
                for seed in range(options.seeds):
                    net = copy.deepcopy(slim.model)
                    list(work.epochs(net, recipe, seed=seed, teacher=whole))
                    scores.append(work.score(net))
                facts = {"task": name, "macs": slim.macs / slim.base_macs, "way": way}
                emit("distill_maps", **facts, base=base, scores=scores, epochs=options.epochs)
                mean = sum(scores) / len(scores)
                spread = (max(scores) - min(scores)) / 2
                rows.append(
                    [
                        name,
                        f"{share:.0%}",
                        way,
                        f"{100 * mean:.2f} ± {100 * spread:.2f}",
                        100 * base,
                    ]
                )
    table("on val [%]", ["task", "of the MACs", "taught by", "score", "base"], rows)


if __name__ == "__main__":
    main()
