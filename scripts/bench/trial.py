#!/usr/bin/env python3
"""What a trial costs beside fine-tuning and scoring, and what Ray adds to it.

In process: select, cut, repair and recalibrate, write the checkpoint; first trial (cold) and median
of the rest (warm). On Ray: many trials that do nothing, in re-used workers, against the same loop
without Ray; and the first one, which pays for the worker's start.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from benchmark import emit, table
from rich.console import Console

from pruning import methods
from pruning.graph.surgery import cut
from pruning.graph.widths import fit, uniform
from pruning.training.batch_norm import recalibrate
from search import runner
from search.config import loader as configuration
from search.config.schema import Config
from search.storage.ledger import Ledger
from search.study.candidate import Candidate
from search.trial import base_model, trial

TRIALS = 60


def nothing(work: Any, candidate: Candidate) -> Iterator[dict[str, Any]]:
    """A trial that only reports; its accuracy grows with its MACs."""
    widths = list(candidate.widths or ())
    yield {
        "status": "complete",
        "widths": widths,
        "score_val": 0.5 + sum(widths) / 1e4,
        "wall_s": time.time(),  # when it ran: the gaps between trials are Ray's share
    }


def open_nothing(config: Config, base: base_model.BaseModel, device: str) -> None:
    return None


def parts_of_a_trial(work: trial.TrialContext, share: float, folder: str) -> dict[str, float]:
    """Seconds of each step but fine-tuning and scoring."""
    problem, state = work.problem, work.states["uniform"]
    target = share * problem.cost.base_macs
    widths = fit(problem.cost, lambda t: uniform(problem.graph, problem.lattice, t), target)
    began = now()
    keep = methods.get("uniform").select(state, problem, widths)
    selected = now()
    model = cut(work.model, problem.graph, keep)
    done = now()
    recalibrate(model, work.task.samples())
    calibrated = now()
    trial.save(work, model, widths, f"{folder}/model.safetensors")
    saved = now()
    return {
        "select": selected - began,
        "cut": done - selected,
        "recalibrate": calibrated - done,
        "save": saved - calibrated,
        "all": saved - began,
    }


def now() -> float:
    """Time in seconds, read once a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def in_process(config: Config) -> base_model.BaseModel:
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = base_model.prepare(config, device=device, say=lambda text: None)
    began = time.perf_counter()
    work = trial.TrialContext.open(config, base, device)
    opened = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        runs = [parts_of_a_trial(work, share, folder) for share in np.linspace(0.2, 0.8, 11)]
    warm = {name: statistics.median(run[name] for run in runs[1:]) for name in runs[0]}
    emit("trial", model=config.model.name, device=device, open_s=opened, cold=runs[0], warm=warm)
    table(
        f"{config.model.name} on {device}: seconds of a trial beside fine-tuning and scoring",
        ("", *warm),
        [("cold", *runs[0].values()), ("warm", *warm.values())],
    )
    return base


def on_ray(config: Config) -> None:
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        out = str(Path(folder) / "run")
        quick = replace(
            config,
            out=out,
            trials=TRIALS,
            search=replace(config.search, final_seeds=0, seeds=False),
        )
        stages = runner.Stages(open_context=open_nothing, body=nothing, measure=lambda *_: [])
        began = time.time()
        runner.run(quick, Console(file=io.StringIO()), stages)
        ends = sorted(row.wall_s for row in Ledger(out).rows())
        ray.shutdown()
    per_trial = (ends[-1] - ends[4]) / (len(ends) - 5)
    emit("ray", trials=len(ends), slots=2, first_s=ends[0] - began, per_trial_s=per_trial)
    table(
        "Ray's share",
        ("trials", "until the first ends [s]", "per trial afterwards [s]"),
        [(len(ends), ends[0] - began, per_trial)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="digits", help="packaged configuration or YAML file")
    options, flags = parser.parse_known_args()
    in_process(configuration.load([options.config, "--search.method=uniform", *flags]))
    on_ray(configuration.load(["digits", "--base.epochs=1"]))


if __name__ == "__main__":
    main()
