#!/usr/bin/env python3
"""Everything that wants a GPU, in one go and in stages: what is done is not done again.

tests: pytest -m gpu. finetune, sharing: throughput eager, captured, compiled, and of several
trainings at a time. methods, repair: one-shot accuracies of ResNet-56. search: 60 trials of five
epochs, then 40 epochs for each member of the frontier. A stage that --minutes cut short begins anew
with the next call, the search goes on. FOLDER keeps lines.jsonl (what the benchmarks measured), a
log for each stage, and the search's RUN. Example:

    scripts/gpu_drill.py --data CIFAR10 --weights resnet56.safetensors --out FOLDER --minutes 10
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from benchmark import table

from search.storage import results

HERE = Path(__file__).resolve().parent
METHODS = "--network resnet56 --epochs 5 --lr 0.05 --batch 512 --macs 0.5 0.25"
SEARCH = (
    "-m search search cifar10-resnet56 --trials 60 --finetune.epochs 5 --search.final_epochs 40 "
    "--search.final_seeds 1"
)
QUICK = {
    "tests": "",
    "finetune": "--seconds 0.2 --images 256 --network resnet20",
    "sharing": "--seconds 0.2 --shares 0.5 --threads 1",
    "methods": "--images 256 --repair-images 100 --test-images 200 --epochs 0.01 --macs 0.5 "
    "--methods uniform",
    "repair": "--images 256 --repair-images 100 --test-images 200 --macs 0.5",
    "search": "--trials 2 --search.seeds false --search.method uniform --search.repair none "
    "--finetune.epochs 0.005 --finetune.batch 64 --search.final_epochs 0.005 "
    "--search.max_macs 10% --data.val last:500",
}
GRACE_S = 20.0  # for a search that was told to stop: it puts away what it has


def stages(options: argparse.Namespace) -> dict[str, list[str]]:
    """Commands by name: arguments of this Python."""
    known = ["--data", options.data, "--weights", options.weights]
    root = ["--data.root", options.data, "--model.weights", options.weights]
    found = {
        "tests": [*"-m pytest -q -m gpu".split(), str(HERE.parent / "tests")],
        "finetune": [str(HERE / "bench/finetune.py")],
        "sharing": [str(HERE / "bench/sharing.py")],
        "methods": [str(HERE / "bench/methods.py"), *known, *METHODS.split()],
        "repair": [str(HERE / "bench/repair.py"), *known],
        "search": [*SEARCH.split(), *root, "--out", str(options.out / "RUN")],
    }
    return {
        name: [*line, *(QUICK[name] if options.quick else "").split()]
        for name, line in found.items()
    }


def run(command: Sequence[str], log: Path, seconds: float) -> int | None:
    """The exit status, or None where time ran out; output goes to `log` as it comes."""
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *command], stdout=file, stderr=file)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


def keep_lines(log: Path, file: Path) -> None:
    """Append what a benchmark measured to the one file of all."""
    lines = [line for line in log.read_text().splitlines() if line.startswith('{"benchmark"')]
    with file.open("a") as out:
        out.writelines(line + "\n" for line in lines)


def summary(place: Path) -> None:
    """The search: its frontier, and what its time went into."""
    found = results.read(str(place))
    trained = [row for row in found.complete if row.epochs]
    inside = sum(row.wall_s for row in trained)
    started = [datetime.fromisoformat(row.started_at).timestamp() for row in found.rows]
    ended = [at + row.wall_s for at, row in zip(started, found.rows, strict=True)]
    line: Mapping[str, object] = {
        "benchmark": "gpu_search",
        "trials": len(found.rows),
        "complete": len(trained),
        "seconds_of_trials": max(ended) - min(started),
        "share_of_fine_tuning": sum(row.finetune_s for row in trained) / inside if inside else None,
        "device": trained[0].device if trained else None,
    }
    print(json.dumps(line), flush=True)
    rows = [
        (f"{p['macs'] / found.record['base_macs']:.1%}", p["score_val"], p.get("score_test_mean"))
        for p in found.points
    ]
    table("frontier", ("MACs", "val", "test"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--weights", required=True, help="of ResNet-56")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--minutes", type=float, default=600.0, help="for this call")
    parser.add_argument("--only", nargs="+", metavar="STAGE")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run at all?")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end, commands = time.monotonic() + 60 * options.minutes, stages(options)
    if unknown := set(options.only or ()) - set(commands):
        parser.error(f"no stage {', '.join(sorted(unknown))}; choose of {', '.join(commands)}")
    shown = []
    for name in options.only or commands:
        done, log = options.out / f"{name}.done", options.out / f"{name}.log"
        left = end - time.monotonic() - GRACE_S
        if done.exists() or left <= 0:
            shown.append((name, "done before" if done.exists() else "no time left", ""))
            continue
        began = time.monotonic()
        status = run(commands[name], log, left)
        keep_lines(log, options.out / "lines.jsonl")
        if status == 0:
            done.touch()
        words = {0: "ok", None: "cut short"}.get(status, f"failed: see {log}")
        shown.append((name, words, time.monotonic() - began))
        print(f"{name}: {words}", flush=True)
    if (options.out / "RUN" / "run.json").exists():
        summary(options.out / "RUN")
    table("stages", ("stage", "result", "seconds"), shown)
    sys.exit(any("failed" in words for _, words, _ in shown))


if __name__ == "__main__":
    main()
