#!/usr/bin/env python3
"""Trained parents: the same search with and without them, seed by seed.

Hypervolume of the trials (val), whole and at equal trial seconds: those that the cheaper of the two
searches took. A training of a search is noisy: read the mean over seeds. What follows `--` goes to
`slimfront search`; what is done is not done again.

Usage: scripts/bench/parents.py [--seeds 3] [--out FOLDER] [-- digits --trials 32 …]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from benchmark import emit, table

from search.pareto import front
from search.storage import Ledger, Row, record, results

WAYS = {"without": "false", "with": "true"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/parents"))
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:end])
    flags = sys.argv[end + 1 :] or ["digits", "--trials=32"]
    rows = []
    for seed in range(options.seeds):
        runs = {way: options.out / f"{seed}-{way}" for way in WAYS}
        for way, place in runs.items():
            search(flags, seed, WAYS[way], place)
        found = {way: trials(place) for way, place in runs.items()}
        seconds = {way: sum(row.wall_s for row in done) for way, done in found.items()}
        least = min(seconds.values())
        for way, done in found.items():
            whole, equal = (volume(runs[way], until(done, s)) for s in (np.inf, least))
            begun = sum(bool(row.parent) for row in done)
            values = {"whole": whole, "equal": equal, "seconds": seconds[way], "begun": begun}
            emit("parents", seed=seed, parents=way, trials=len(done), **values)
            rows.append((seed, way, whole, equal, seconds[way], begun))
    for way in WAYS:
        own = [row[2:] for row in rows if row[1] == way]
        rows.append(("mean", way, *np.mean(own, axis=0).tolist()))
    columns = ("seed", "parents", "hypervolume", "at equal s", "trial s", "trials with one")
    table(" ".join(flags), columns, rows)


def search(flags: list[str], seed: int, parents: str, out: Path) -> None:
    own = [f"--seed={seed}", f"--search.parents={parents}", "--search.final_seeds=0"]
    command = [sys.executable, "-m", "search", "search", *flags, *own, f"--out={out}"]
    subprocess.run(command, check=True)


def trials(place: Path) -> list[Row]:
    """Complete ones in the order in which they ended."""
    done = [row for row in Ledger(place).rows() if row.status == "complete"]
    return sorted(done, key=lambda row: row.number)


def until(rows: list[Row], seconds: float) -> list[Row]:
    """The first trials that take no longer together."""
    return [
        row
        for row, s in zip(rows, np.cumsum([r.wall_s for r in rows]), strict=True)
        if s <= seconds
    ]


def volume(place: Path, rows: list[Row]) -> float:
    reference = record.reference(results.read(str(place)).record)
    return float(front.hypervolume(reference.points(rows), reference))


if __name__ == "__main__":
    main()
