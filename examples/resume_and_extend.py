#!/usr/bin/env python3
"""Stop a search, go on with it, extend it: nothing that is finished runs twice.

    python examples/resume_and_extend.py --trials 12 --out runs/resumed

Half of the trials first; then the same call with all of them, by another sampler. The ledger, a
file for each finished trial, is all that a session needs to go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import search


def ledger(out: str) -> dict[str, int]:
    """Each finished trial's file and when it was written (ns)."""
    return {file.name: file.stat().st_mtime_ns for file in Path(out, "trials").glob("*.json")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=float, default=10, help="of the whole network's training")
    parser.add_argument("--out", default="runs/resumed", help="folder of the run")
    options = parser.parse_args()
    settings = {
        "base": {"epochs": options.epochs},
        "finetune": {"epochs": 1},
        "search": {"final_seeds": 0},  # members keep the weights of their trials
    }
    search.run("digits", out=options.out, trials=options.trials // 2, **settings)
    before = ledger(options.out)

    # a session that was killed goes on by the same call; this one also asks for more
    settings["search"] = {"final_seeds": 0, "sampler": "nsga2"}
    result = search.run("digits", out=options.out, trials=options.trials, **settings)
    after = ledger(options.out)
    untouched = sum(after.get(name) == written for name, written in before.items())
    print(f"first session: {len(before)} trials, {untouched} of their files are as they were")
    print(f"second session: {len(after) - len(before)} trials, {len(result.points)} points")


if __name__ == "__main__":
    main()
