"""Shares of a cluster, and trials whose workers die."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
import torch
from rich.console import Console

from pruning.errors import UserError
from search import runner
from search.backend import base_task, cluster, retrain
from search.config import loader as configuration
from search.config.schema import Config
from search.storage.ledger import Ledger
from search.study.candidate import Candidate
from search.trial import final_training
from search.trial.base_model import BaseModel
from search.trial.final_training import Job, Training
from tests.search import runs

TRIALS, DIES_ONCE, DIES_AFTER, ALWAYS_DIES = 6, 1, 3, 5


def shared(
    monkeypatch: pytest.MonkeyPatch, total: dict[str, float], *flags: str
) -> cluster.TrialResources:
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    return cluster.share(configuration.load(["--trials=50", *flags]))


@pytest.mark.parametrize(
    ("total", "flags", "expected"),
    [
        ({"CPU": 8.0}, ("--resources.gpus_per_trial=null",), (1.0, 0.0, 8)),
        ({"CPU": 8.0, "GPU": 2.0}, ("--resources.gpus_per_trial=null",), (1.0, 1.0, 2)),
        ({"CPU": 64.0, "GPU": 2.0}, ("--resources.gpus_per_trial=0.25",), (1.0, 0.25, 8)),
        ({"CPU": 8.0}, ("--resources.max_concurrent=3",), (1.0, 0.0, 3)),
        ({"CPU": 2.0}, ("--resources.max_concurrent=9",), (1.0, 0.0, 2)),
        ({"CPU": 2.0}, ("--resources.cpus_per_trial=0.0625",), (0.0625, 0.0, 32)),
    ],
)
def test_share(
    total: dict[str, float],
    flags: tuple[str, ...],
    expected: tuple[float, float, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    share = shared(monkeypatch, total, *flags)
    assert (share.cpus, share.gpus, share.slots) == expected


def test_a_cluster_that_is_yet_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--resources.gpus_per_trial=1", "--resources.address=auto"]
    with pytest.raises(UserError, match=r"set resources\.max_concurrent"):
        shared(monkeypatch, {}, *flags)
    share = shared(monkeypatch, {}, *flags, "--resources.max_concurrent=16")
    assert (share.gpus, share.slots) == (1.0, 16)


@pytest.mark.parametrize(
    ("flag", "gigabytes"),
    [
        ("gpus_per_trial=null", 144),
        ("gpus_per_trial=1", 144),
        ("gpus_per_trial=0.125", 17),  # 1 less than its share: eight processes need room as well
        ("memory_fraction=0.5", 72),
    ],
)
def test_the_memory_of_a_shared_gpu(
    flag: str, gigabytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    caps: list[float] = []
    gpu = SimpleNamespace(total_memory=144 * 2**30)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [3])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: caps.append(share)
    )
    assert cluster.worker_device(configuration.load([f"--resources.{flag}"])) == "cuda:0"
    assert caps == [pytest.approx(gigabytes / 144)]


def test_the_base_model_s_process_ends_with_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's memory is given back by that alone; Ray does it where `remote` is told of the GPU."""
    tasks: list[Any] = []
    made = ray.remote

    def remote(**options: Any) -> Any:
        def make(function: Any) -> Any:
            tasks.append(made(**options)(function))
            return SimpleNamespace(remote=lambda *arguments: arguments)

        return make

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    config = configuration.load([])
    for gpus in (0.0, 0.5):
        base_task.run(config, None, lambda *a: None, cluster.TrialResources(1.0, gpus, 1), print)  # type: ignore[arg-type, return-value]
    assert [task._default_options.get("max_calls") for task in tasks] == [None, 1]


def workshop(config: Config, base: BaseModel, device: str) -> Path:
    return Path(config.out).parent


def body(folder: Path, candidate: Candidate) -> Iterator[dict[str, Any]]:
    """By its number, a trial kills its worker the first time, each time, or once it has ended."""
    number = int(candidate.trial_id.split("-")[0])
    attempt = len(list(folder.glob(f"{number}-*"))) + 1
    (folder / f"{number}-{attempt}").touch()
    report = {"widths": list(candidate.widths or ()), "score_val": 0.5 + number / 100}
    yield report | {"epochs": 0.0}
    if number == ALWAYS_DIES or (number == DIES_ONCE and attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        yield report | {"epochs": 1.0, "status": "complete"}
    finally:  # the worker has been given the next trial
        if number == DIES_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("ray_local")
def test_what_dies_is_tried_again_and_ends_once(tmp_path: Path) -> None:
    """A lost worker costs its running trial some time; a trial that kills workers is given up."""
    one = "--resources.max_concurrent=1"  # a worker takes long to start
    flags = [f"--trials={TRIALS}", f"--out={tmp_path}/run", "--base.epochs=0.05", one]
    loaded = configuration.load(flags)
    config = replace(loaded, search=replace(loaded.search, final_seeds=0))
    stages = runner.Stages(open_context=workshop, body=body, measure=lambda *_: [])
    runner.run(config, Console(file=io.StringIO()), stages)
    rows = {row.number: row for row in Ledger(config.out).rows()}
    assert sorted(rows) == list(range(TRIALS))
    assert len({row.arch_hash for row in rows.values()}) == TRIALS
    assert {row.status for n, row in rows.items() if n != ALWAYS_DIES} == {"complete"}
    assert rows[DIES_ONCE].score_val == pytest.approx(0.5 + DIES_ONCE / 100)
    assert rows[ALWAYS_DIES].status == "failed"
    assert rows[ALWAYS_DIES].reason
    tries = {n: len(list(tmp_path.glob(f"{n}-*"))) for n in rows}
    assert tries.pop(ALWAYS_DIES) == 3
    assert tries == {n: 2 if n == DIES_ONCE else 1 for n in tries}


def jobs_of(count: int) -> list[Job]:
    one = runs.make_rows(1)[0]
    return [Job(replace(one, trial_id=f"{i:05d}-x"), 0) for i in range(count)]


def train_all(config: Config, jobs: list[Job], slots: int, quick: Any) -> list[str]:
    """What is said meanwhile."""
    said: list[str] = []
    share, base = cluster.TrialResources(1.0, 0.0, slots), cast(BaseModel, "base")
    retrain.train_all(config, base, [[], jobs, []], share, said.append, given, quick)
    return said


def given(config: Config, base: BaseModel, device: str) -> Config:
    return config


def quick(config: Config, job: Job) -> Iterator[dict[str, Any]]:
    """By its number a training kills its worker once, hangs, raises, or is stored."""
    mark = Path(config.out, job.row.trial_id)
    before = mark.read_text() if mark.exists() else ""
    mark.write_text(before + "tried\n")
    yield {"epochs": 0.5}
    if job.row.number == 1 and not before:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.row.number == 2:
        raise ValueError("broken on purpose")
    if job.row.number == 3:
        time.sleep(600)
    training = Training(0, 0.5, 0.5, 1.0, 1.0, f"weights of {os.getpid()}")
    final_training.store(config, job.row, job.k, training)
    yield {"status": "complete"}


@pytest.mark.usefixtures("ray_local")
def test_final_trainings_fail_each_by_itself(tmp_path: Path) -> None:
    """Four at a time when the search began, room for two now: who is done makes room."""
    config = configuration.load([f"--out={tmp_path}", "--search.trial_timeout_s=4"])
    (tmp_path / "run.json").touch()
    jobs = jobs_of(5)
    said = [line for line in train_all(config, jobs, 4, quick) if "failed" in line]
    assert sorted(said) == [
        "00002-x: final training 0 failed (ValueError: broken on purpose)",
        "00003-x: final training 0 failed (not done after 4 s)",
    ]
    tried = [(tmp_path / job.row.trial_id).read_text().count("tried") for job in jobs]
    assert tried == [1, 2, 1, 1, 1]
    done = [final_training.stored(config, *job) for job in jobs]
    assert [training is not None for training in done] == [True, True, False, False, True]


@pytest.mark.usefixtures("ray_local")
def test_later_final_trainings_take_the_workers_of_the_first(tmp_path: Path) -> None:
    """And see what these have left."""
    config = configuration.load([f"--out={tmp_path}"])
    (tmp_path / "run.json").touch()
    jobs = jobs_of(1) + [Job(jobs_of(1)[0].row, k) for k in (1, 2)]

    def batches() -> Iterator[list[Job]]:
        for job in jobs:
            yield [job]
            assert final_training.stored(config, *job), "the next one waits for its end"

    share, base = cluster.TrialResources(1.0, 0.0, 2), cast(BaseModel, "base")
    retrain.train_all(config, base, batches(), share, print, given, quick)
    done = [final_training.stored(config, *job) for job in jobs]
    assert len({training.checkpoint for training in done if training}) == 1, "one process"


@pytest.mark.usefixtures("ray_local")
def test_no_final_training_where_none_can_succeed(tmp_path: Path) -> None:
    config = configuration.load([f"--out={tmp_path}"])
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match="disk full"):
        train_all(config, jobs_of(3), 1, full_disk)
    assert not (tmp_path / "finals").exists()


def full_disk(config: Config, job: Job) -> Iterator[dict[str, Any]]:
    raise UserError("disk full; free some")
    yield {}


@pytest.mark.parametrize(
    ("trial", "training", "seconds"),
    [(2, None, 10), (2, 1, 10), (2, 5, 25), (0, None, 10), (0, 5, None)],
)
def test_the_time_of_a_final_training(
    trial: float, training: float | None, seconds: float | None
) -> None:
    loaded = configuration.load([f"--finetune.epochs={trial}", "--search.trial_timeout_s=10"])
    config = replace(loaded, search=replace(loaded.search, final_epochs=training))
    assert final_training.longest(config) == seconds
    if seconds and trial:  # a one-shot trains for a trial's epochs, too
        alone = replace(runs.make_rows(1)[0], checkpoint="")
        epochs = trial + (training or trial)
        assert final_training.longest(config, alone) == 10 * epochs / trial
    config = replace(config, search=replace(config.search, trial_timeout_s=None))
    assert final_training.longest(config) is None
