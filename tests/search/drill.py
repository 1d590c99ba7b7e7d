"""A search on a deterministic surface whose trials fail in all known ways; run by test_drill.

`python -m tests.search.drill RUN MARKS TEMP`: RUN as for a search, MARKS gets a file for each start
of a trial, TEMP is Ray's.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from pruning.graph.channel_graph import ChannelGraph
from pruning.models import files
from pruning.models.tensors import read_tensors, write_tensors
from pruning.training.recipe import Recipe
from search import runner
from search.backend import final
from search.config import loader as configuration
from search.config.schema import Config
from search.pareto import front
from search.storage import TUNED
from search.study.candidate import Candidate
from search.study.factory import make_study
from search.trial import base_model, trial
from search.trial.base_model import BaseModel
from search.trial.final_training import Training
from tests.search.spaces import accuracy

TRIALS = 12  # all of them seeds, whose order no history changes
TIMEOUT_S = 8.0
FAULTS = {  # by place among the seeds, see `places`
    1: "raise",
    3: "nan",
    4: "memory once",
    5: "memory",
    6: "hang",
    7: "killed once",
    8: "killed",
}
FAILS = {"raise", "nan", "memory", "hang", "killed"}


def settings(out: str) -> Config:
    return configuration.load(
        [
            "digits",
            f"--out={out}",
            f"--trials={TRIALS}",
            "--base.epochs=0.05",
            "--search.method=uniform,cpmc",
            "--search.sampler=ehvi",
            "--search.patience=4",  # the seeds come first, and here they are all there is
            f"--search.trial_timeout_s={TIMEOUT_S}",
        ]
    )


class Shop:
    """What a worker opens: settings and the channel graph; no data, no network."""

    device = "cpu"
    task = SimpleNamespace(halves=True)  # a smaller batch is a remedy

    def __init__(self, config: Config, base: BaseModel, device: str) -> None:
        self.config, self.graph = config, base.channel_graph()
        self.places = places(config, base)
        self.marks = Path(os.environ["DRILL_MARKS"])


def places(config: Config, base: BaseModel) -> dict[tuple[str, Any], int]:
    """Method and widths of the seeds, each once and in the order in which they are tried."""
    problem = base_model.problem(base.channel_graph(), config.search)
    study = make_study(config, base.states, problem, 2)
    seeds = dict.fromkeys((seed.method, seed.widths) for seed in study._seeds)
    return {key: place for place, key in enumerate(seeds)}


def body(shop: Any, candidate: Candidate) -> Iterator[dict[str, Any]]:
    """The real trial around attempts that only pretend to train."""
    with mock.patch.object(trial, "_attempt", attempt):
        yield from trial.run(shop, candidate)


def attempt(
    shop: Shop, candidate: Candidate, recipe: Recipe, reason: str = ""
) -> Iterator[dict[str, Any]]:
    mark = shop.marks / f"{candidate.arch_hash}.{time.time_ns()}"
    earlier = len(list(shop.marks.glob(f"{candidate.arch_hash}.*")))
    mark.write_text(candidate.source)
    if candidate.parent:
        read_tensors(_weights(shop, candidate.parent))
    graph: ChannelGraph = shop.graph
    top1 = accuracy(graph, candidate.widths or ())
    report = {"widths": list(candidate.widths or ()), "reason": reason, "score_repaired": top1}
    yield report | {"score_val": top1 / 2, "epochs": 0.0}
    time.sleep(0.4)
    fault = FAULTS.get(shop.places[candidate.method, candidate.widths])
    if fault == "raise":
        raise ValueError("broken on purpose\nand in two lines")
    if fault == "memory" or (fault == "memory once" and not reason):
        raise MemoryError
    if fault == "hang":
        time.sleep(10_000)
    if fault == "killed" or (fault == "killed once" and not earlier):
        os.kill(os.getpid(), signal.SIGKILL)
    place = _weights(shop, candidate.trial_id)
    write_tensors(place, {"x": trial.torch.zeros(1)}, {})
    top1 = math.nan if fault == "nan" else top1
    report |= {"score_val": top1, "epochs": 2.0, "checkpoint": place, "state": TUNED}
    yield report | {"status": "complete"}


def _weights(shop: Shop, name: str) -> str:
    return files.join(shop.config.out, "checkpoints", f"{name}.safetensors")


def measure(config: Config, base: BaseModel, rows: Any, share: Any, say: Any) -> list[final.Member]:
    members = [rows[i] for i in front.front(front.points_of(rows))]
    return [
        final.Member(r, (Training(0, r.score_val, r.score_val, 2.0, 0.0, r.checkpoint),))
        for r in members
    ]


def expected(graph: ChannelGraph, widths: tuple[int, ...]) -> float:
    return accuracy(graph, np.asarray(widths))


if __name__ == "__main__":
    run, marks, temp = sys.argv[1:]
    os.environ["DRILL_MARKS"] = marks
    own = {"num_cpus": 2, "include_dashboard": False, "_temp_dir": temp}
    stages = runner.Stages(open_context=Shop, body=body, measure=measure, ray=own)
    runner.run(settings(run), stages=stages)
