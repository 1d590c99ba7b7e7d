"""Shares of a cluster, and trials whose workers die."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.air.execution._internal import event_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from rich.console import Console

from pruning.errors import UserError
from search import runner
from search.backend import base_task, cluster
from search.config import loader as configuration
from search.config.schema import Config
from search.storage.ledger import Ledger
from search.study.candidate import Candidate
from search.trial.base_model import BaseModel

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
@pytest.mark.parametrize("by", ["itself", "Ray, for want of memory"])
def test_what_dies_is_tried_again_and_ends_once(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost worker costs its running trial some time; a trial that kills workers is given up."""

    def get(future: Any) -> Any:
        try:
            return ray.get(future)
        except RayActorError as error:
            raise OutOfMemoryError("1 worker(s) were killed") from error

    if by != "itself":  # what Ray's memory monitor makes of it
        monkeypatch.setattr(event_manager, "ray", SimpleNamespace(get=get, wait=ray.wait))
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
