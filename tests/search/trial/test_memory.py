"""A worker that is used again and again: its memory stays, and what it did before leaves no trace.

`python -m tests.search.trial.test_memory` is the worker, alone in a process as in a search.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from search.backend import cluster, worker
from search.config import loader as config
from search.config.schema import Config
from search.study.candidate import Candidate
from search.trial import base_model, memory
from search.trial.base_model import BaseModel

TRIALS = 20
ROOT = Path(__file__).parents[3]
FIELDS = ("status", "widths", "score_pruned", "score_repaired", "score_val", "epochs", "seed")


def megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def work(settings: Config, base: BaseModel) -> dict[str, Any]:
    """Run trials in one worker, some of them again in another order, one of them given up."""
    torch.set_num_threads(1)
    problem = base_model.problem(base.channel_graph(), settings.search)
    rng = np.random.default_rng(0)

    def candidate(number: int) -> dict[str, Any]:
        share = rng.uniform(0.2, 1, len(problem.graph.groups))
        widths = tuple(problem.lattice.snap(problem.graph.widths * share).tolist())
        names = {"kind": "widths", "source": "test", "method": "gain-curve"}
        return Candidate(
            trial_id=f"{number:05d}-{number:x}",
            arch_hash=f"{number + 1000:016x}",
            widths=widths,
            scalars={},
            asked=0,
            params={},
            **names,
        ).to_config()

    class Worker(worker.TrialWorker):
        def setup(self, config: dict[str, Any], **_: Any) -> None:
            super().setup(config, settings, base)

    def finish() -> dict[str, Any]:
        while not (report := actor.step())["done"]:
            pass
        assert report["status"] == "complete", report
        return {name: report[name] for name in FIELDS}

    configs = [candidate(number) for number in range(TRIALS)]
    with mock.patch.object(cluster, "worker_device", return_value="cpu"):
        actor = Worker(configs[0])
    rows, sizes = [], []
    for following in [*configs[1:], configs[3]]:
        rows.append(finish())
        actor.reset_config(following)  # and it lets go of the one before
        sizes.append(megabytes())
    again = {}
    for number in (TRIALS - 1, 7, 0):
        actor.reset_config(configs[3])
        actor.step()  # and the scheduler stops it there
        actor.reset_config(configs[number])
        again[number] = finish()
    return {"rows": rows, "megabytes": sizes, "again": again}


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("memory") / "run"
    out.mkdir()
    (out / "run.json").write_text("{}")  # a worker checks that it sees the run
    settings = config.load(["digits", f"--out={out}", "--base.epochs=1", "--finetune.epochs=1"])
    base = base_model.prepare(settings, say=lambda text: None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.trial.test_memory"],
        input=pickle.dumps((settings, base)),
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:].decode()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_twenty_trials_leave_the_memory_of_three(worked: dict[str, Any]) -> None:
    sizes = worked["megabytes"]
    assert len(sizes) == TRIALS
    assert sizes[-1] <= 1.05 * sizes[2], sizes


def test_rows_do_not_depend_on_what_ran_before(worked: dict[str, Any]) -> None:
    rows = worked["rows"]
    assert {row["status"] for row in rows} == {"complete"}
    assert len({row["score_val"] for row in rows}) > 3
    for number, row in worked["again"].items():
        assert row == rows[int(number)]


FAULTS = """
import resource, sys, torch
from search.trial.memory import keep_heap
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_heap()
layers = [torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(12)]
net, images = torch.nn.Sequential(*layers), torch.rand(64, 8, 64, 64)  # 8 MB a layer
for step in range(6):
    if step == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    net(images).mean().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 3)
"""


def faults(heap: str, **env: str) -> float:
    """Page faults of a training step of a new process, once it is warm."""
    clean = {name: value for name, value in os.environ.items() if name not in memory.HEAP}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, heap],
        cwd=ROOT,
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_step_finds_the_memory_of_the_one_before() -> None:
    plain, kept = faults("as it is"), faults("kept")  # 4,000 to 77,000; 0 to 700
    assert kept < 2_000 < plain
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072") > 100_000, "the user's own limit"


if __name__ == "__main__":
    print(json.dumps(work(*pickle.load(sys.stdin.buffer))))
