#!/usr/bin/env python3
"""slimfront's search beside one written by hand with Optuna, Ray Tune and Torch-Pruning.

Both run as many trials of as many seconds; then each takes, for every share of the MACs, the trial
that is best on validation images below it, and trains it for the same CPU seconds. One seed.

    scripts/bench/peers_search.py --data DATA --weights resnet20_45k.safetensors --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers_by_hand
import torch
import trained
from benchmark import machine, table
from peers_tools import Steps, macs, train
from torch import nn

from pruning.models import checkpoint
from pruning.training import evaluate
from search.storage import Ledger

OURS, BY_HAND = "slimfront", "Optuna + Ray Tune by hand"
Found = list[tuple[float, float, Callable[[], nn.Module]]]
"""Of every trial: share of the MACs, accuracy on validation images, its network."""


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    base = trained.load(options.network, options.weights, options.data)
    example = torch.zeros(1, *base.train.shape)
    rows = []
    for name, run in ((OURS, ours), (BY_HAND, by_hand)):
        began = time.perf_counter()
        found = run(options, base)
        spent = time.perf_counter() - began
        for share in options.macs:
            below = [each for each in found if each[0] <= share]
            if not below:
                rows.append((f"{share:.0%}", name, "none", "", "", f"{spent:.0f}"))
                continue
            _, _, load = max(below, key=lambda each: each[1])
            net = load()
            before = evaluate(net, base.test.batches(500))
            steps = Steps(options.batch, options.lr, options.distill)
            train(net, base.train, base.net, options.seconds, 0, steps)
            after = evaluate(net, base.test.batches(500))
            kept = macs(net, example) / macs(base.net, example)
            row = {"search": name, "asked": share, "macs": kept, "trial": before, "trained": after}
            print(json.dumps({"benchmark": "peers_search", **row, "s": spent, **machine()}))
            shown = (f"{100 * before:.2f}", f"{100 * after:.2f}")
            rows.append((f"{share:.0%}", name, f"{kept:.1%}", *shown, f"{spent:.0f}"))
    columns = ("asked", "search", "MACs", "its trial", "trained on", "search s")
    table(f"{options.network}, test top-1 %, {options.trials} trials", columns, sorted(rows))


def ours(options: argparse.Namespace, base: trained.Trained) -> Found:
    """`slimfront search` as its user types it."""
    place = options.out / "slimfront"
    flags = {
        "data.root": options.data,
        "data.val": "last:5000",
        "model.weights": options.weights,
        "trials": options.trials,
        "finetune.epochs": options.epochs,
        "finetune.batch": options.batch,
        "finetune.lr": options.lr,
        "search.final_seeds": 0,
        "search.keep_checkpoints": "all",
        "out": place,
    }
    line = [sys.executable, "-m", "search", "search", f"cifar10-{options.network}"]
    subprocess.run([*line, *(f"--{k}={v}" for k, v in flags.items())], check=True)
    rows = [row for row in Ledger(str(place)).rows() if row.status == "complete"]
    whole = max(row.macs for row in rows)
    return [(r.macs / whole, r.score_val, lambda r=r: checkpoint.load(r.checkpoint)) for r in rows]


def by_hand(options: argparse.Namespace, base: trained.Trained) -> Found:
    place = options.out / "by-hand"
    place.mkdir(exist_ok=True)
    layers = sum(isinstance(m, nn.Conv2d) for m in base.net.modules())
    setup: dict[str, Any] = {
        "network": options.network,
        "weights": options.weights,
        "data": options.data,
        "images": options.images,
        "val": 5000,
        "trial_seconds": options.trial_seconds,
        "recipe": Steps(options.batch, options.lr, options.distill),
    }
    done = peers_by_hand.search(setup, layers, options.trials, place.resolve())
    return [(each["macs"], each["top1"], lambda e=each: _module(place, e["macs"])) for each in done]


def _module(place: Path, share: float) -> nn.Module:
    return torch.load(place / f"{share:.6f}.pt", weights_only=False)  # our own file


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--out", type=Path, required=True, help="folder for both runs")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--trial-seconds", type=float, default=30, help="CPU seconds, by hand")
    parser.add_argument("--epochs", type=float, default=0.25, help="of slimfront's trials")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument(
        "--seconds", type=float, default=60, help="CPU seconds of the last training"
    )
    parser.add_argument("--images", type=int, default=2048, help="training images to choose by")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--distill", type=float, default=0.9, help="share of the teacher's loss")
    return parser.parse_args()


if __name__ == "__main__":
    main()
