#!/usr/bin/env python3
"""slimfront beside its peers: the same weights, images, MACs, recipe and CPU seconds.

Each tool makes a slim network of at most the asked share of the MACs (by torch's counter), then all
train it by one recipe, the base model as the teacher, until the seconds are spent: what a tool took
to choose, cut and repair is taken off its training (but for FastNAS, whose search is longer than
that). Test images decide nothing. Rows are JSON lines
in --out; those that are there are not measured again. --table prints them as Markdown.

    pip install -e '.[peers]'
    scripts/bench/peers.py --data DATA --weights resnet20_45k.safetensors --out peers.jsonl
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import trained
from benchmark import machine
from peers_tools import TOOLS, Steps, Task, macs, train

from pruning.training import evaluate


def main() -> None:
    options = arguments()
    held = options.out.read_text().splitlines() if options.out.exists() else []
    rows = [json.loads(line) for line in held]
    if options.table:
        print(markdown(rows))
        return
    torch.set_num_threads(1)
    base = trained.load(options.network, options.weights, options.data)
    held_out = base.few(options.images + options.val)
    seen = held_out.subset(slice(0, options.images))
    task = Task(base.net, base.graph, seen, held_out.subset(slice(options.images, None)))
    top1 = evaluate(base.net, base.test.batches(500))
    for seed in range(options.seeds):
        for share in options.macs:
            for tool in options.tools or TOOLS:
                key = {"network": options.network, "asked": share, "tool": tool, "seed": seed}
                if any(
                    key.items() <= row.items() and row["budget_s"] == options.seconds
                    for row in rows
                ):
                    continue
                row = {**key, "base": top1, "budget_s": options.seconds, "lr": options.lr}
                row |= measured(tool, task, share, seed, base, options) | versions() | machine()
                rows.append(row)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    print(markdown(rows))


def measured(
    tool: str, task: Task, share: float, seed: int, base: trained.Trained, options: Any
) -> dict[str, Any]:
    """One row: accuracies on test, MACs, seconds; or why there is none."""
    torch.manual_seed(seed)
    recipe = Steps(options.batch, options.lr, options.distill)
    try:
        chosen, whole = TOOLS[tool], macs(task.net, task.example)
        net, row, cut_s, tune_s = task.net, {}, 0.0, 0.0
        for k in range(1, chosen.rounds + 1):
            now = share ** (k / chosen.rounds) * whole / macs(net, task.example)
            cut = chosen.cut(replace(task, net=net), now)
            net, cut_s = cut.model, cut_s + cut.seconds
            if chosen.rounds == 1:
                row["untrained"] = evaluate(net, base.test.batches(500))
            left = options.seconds * k / chosen.rounds - tune_s - cut_s * (not chosen.searches)
            tune_s += train(net, base.train, task.net, left, seed, recipe)
        return row | {
            "macs": macs(net, task.example) / whole,
            "tuned": evaluate(net, base.test.batches(500)),
            "cut_s": round(cut_s, 1),
            "tune_s": round(tune_s, 1),
        }
    except Exception as error:  # a tool's failure is a row, too
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line for each network, share and tool: mean over the seeds, and their deviation."""
    lines = [
        "| network | tool | MACs | without a step | trained | seconds: to cut, of training |",
        "|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((row["network"], row["asked"], row["tool"]) for row in rows)
    best: dict[tuple[str, float], float] = {}
    for key in keys:
        tuned = [r["tuned"] for r in _of(rows, key) if "tuned" in r]
        if tuned:
            best[key[:2]] = max(best.get(key[:2], 0.0), statistics.mean(tuned))
    for key in keys:
        found = [row for row in _of(rows, key) if "tuned" in row]
        if not found:
            why = next(row["error"] for row in _of(rows, key))
            lines.append(f"| {key[0]} | {key[2]} | {key[1]:.0%} | | {why} | |")
            continue
        mean = {
            name: statistics.mean(row[name] for row in found)
            for name in ("macs", "tuned", "cut_s", "tune_s")
        }
        raw = [row["untrained"] for row in found if "untrained" in row]
        untrained = f"{100 * statistics.mean(raw):.2f}" if raw else ""
        tuned = f"{100 * mean['tuned']:.2f}"
        if len(found) > 1:
            tuned += f" ± {100 * statistics.stdev(row['tuned'] for row in found):.2f}"
        tuned = f"**{tuned}**" if mean["tuned"] == best[key[:2]] else tuned
        lines.append(
            f"| {key[0]} | {key[2]} | {mean['macs']:.1%} | {untrained} | {tuned} "
            f"| {mean['cut_s']:.0f}, {mean['tune_s']:.0f} |"
        )
    return "\n".join(lines)


def _of(rows: list[dict[str, Any]], key: tuple[str, float, str]) -> list[dict[str, Any]]:
    return [row for row in rows if (row["network"], row["asked"], row["tool"]) == key]


def versions() -> dict[str, str]:
    names = ("torch-pruning", "nvidia-modelopt")
    return {name: importlib.metadata.version(name) for name in names}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of CIFAR-10")
    parser.add_argument("--weights")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tools", nargs="*", choices=TOOLS, metavar="TOOL")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of each network")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=2048, help="training images to choose by")
    parser.add_argument("--val", type=int, default=1000, help="training images to score by")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--distill", type=float, default=0.9, help="share of the teacher's loss")
    parser.add_argument("--table", action="store_true", help="print what --out holds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
