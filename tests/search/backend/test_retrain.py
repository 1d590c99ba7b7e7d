"""Final trainings on a cluster: each fails by itself, later ones take the workers of the first."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pruning.errors import UserError
from search.backend import cluster, retrain
from search.config import loader as configuration
from search.config.schema import Config
from search.trial import final_training
from search.trial.base_model import BaseModel
from search.trial.final_training import Job, Training
from tests.search import runs


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
