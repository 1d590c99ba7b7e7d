#!/usr/bin/env python3
"""How busy many workers are kept by one controller: trials that sleep, on CPU shares of one node.

Efficiency: the time that workers slept, as a share of workers x time, from the moment when the last
worker began its first trial until the last trial began: start and end of a search do not count.
Also the controller's own work for each trial, and what follows from it for more GPUs.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import ray
from benchmark import emit
from rich.console import Console

from search import runner
from search.config import loader as configuration
from search.config.schema import Config
from search.storage.ledger import Ledger
from search.study.candidate import Candidate
from search.trial import base_model
from search.trial.base_model import BaseModel

SLEEP = 2.0
PATIENCE = 600.0  # for the last worker to start


def prepare(config: Config, stored: str | None) -> BaseModel:
    return base_model.prepare(config, stored, say=lambda text: None)


def workshop(config: Config, base: BaseModel, device: str) -> Gate:
    return Gate(Path(config.out) / "workers", round(2 / config.resources.cpus_per_trial))


@dataclass
class Gate:
    """Holds each worker's first trial until all have started: Tune would go on with a few.

    An idle worker takes what waits for one that is still starting, which on two cores takes as long
    as many trials that only sleep.
    """

    folder: Path
    workers: int
    passed: bool = False

    def wait(self) -> None:
        if not self.passed:
            self.folder.mkdir(exist_ok=True)
            (self.folder / str(os.getpid())).touch()
            end = time.monotonic() + PATIENCE
            while len(list(self.folder.iterdir())) < self.workers and time.monotonic() < end:
                time.sleep(0.2)
            self.passed = True


def body(gate: Gate, candidate: Candidate) -> Iterator[dict[str, Any]]:
    gate.wait()
    started = datetime.now().astimezone().isoformat()
    began = time.perf_counter()
    time.sleep(SLEEP)
    share = candidate.asked / 3e6
    yield {
        "widths": list(candidate.widths or ()),
        "score_val": float(np.clip(0.98 * share**0.1, 0, 1)),
        "epochs": 1.0,
        "wall_s": time.perf_counter() - began,
        "started_at": started,
        "host": str(os.getpid()),
        "status": "complete",
    }


def measure(workers: int, trials: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="sfb-", dir="/tmp") as folder:
        # of the digits network there are too few slim versions for so many trials
        flags = ["digits", "--model.name=resnet20", "--base.epochs=0.1"]
        flags += [f"--out={folder}/run", f"--trials={trials}"]
        config = configuration.load([*flags, f"--resources.cpus_per_trial={2 / workers}"])
        config = replace(config, search=replace(config.search, final_seeds=0))
        options = {"num_cpus": 2, "object_store_memory": 2 * 10**8, "_temp_dir": f"{folder}/ray"}
        stages = runner.Stages(prepare, workshop, body, measure=lambda *_: [], ray=options)
        with cpu_clock() as clock:
            runner.run(config, Console(file=io.StringIO()), stages)
        rows = [row for row in Ledger(config.out).rows() if row.status == "complete"]
        ray.shutdown()
    starts = np.array([datetime.fromisoformat(row.started_at).timestamp() for row in rows])
    ends = starts + [row.wall_s for row in rows]
    first = {row.host: start for row, start in reversed(list(zip(rows, starts, strict=True)))}
    begin, end = max(first.values()), starts.max()
    busy = np.clip(np.minimum(ends, end) - np.maximum(starts, begin), 0, None).sum()
    spent = np.interp([begin, end], *np.transpose(clock))
    return {
        "workers": len(first),
        "trials": len(rows),
        "efficiency": float(busy / (len(first) * (end - begin))),
        "window_s": float(end - begin),
        "controller_ms_per_trial": float(1000 * np.diff(spent)[0] / (starts > begin).sum()),
    }


@contextmanager
def cpu_clock() -> Iterator[list[tuple[float, float]]]:
    """(time, CPU seconds of this process) four times a second."""
    samples = [(time.time(), time.process_time())]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.25):
            samples.append((time.time(), time.process_time()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield samples
    stop.set()
    thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--trials", type=int, default=0, help="default: 20 for each worker")
    options = parser.parse_args()
    found = measure(options.workers, options.trials or 20 * options.workers)
    load = found["controller_ms_per_trial"] / 1000
    # a controller that is one thread is used up where trials end as fast as it can serve them
    found |= {f"trial_s_for_{gpus}_gpus_at_half_load": 2 * gpus * load for gpus in (64, 512)}
    emit("scaling", **found)


if __name__ == "__main__":
    main()
