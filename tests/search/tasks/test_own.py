"""Tasks of anyone's own: their errors are one line, their metric steers, their trials are rows."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import search
from pruning.errors import UserError
from search import arguments
from search.config.recipe import RecipeConfig
from search.data import Given
from search.storage import REPAIRED, TUNED
from search.trial import base_model, trial
from search.trial.states import Repaired
from tests.search.tasks.sums import CONFIG, QUIET, Sums, candidate


def broken(**parts: Any) -> Sums:
    return type("Broken", (Sums,), parts)()


def fails(error: Exception) -> Any:
    def method(*args: Any) -> Any:
        raise error

    return method


class Locked(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3))
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (broken(loss=lambda *a: torch.tensor(float("nan"))), "loss.* gave nan on the first batch"),
        (broken(loss=lambda *a: 0.5), "gave a float; return the mean loss"),
        (broken(loss=fails(KeyError("mask"))), "loss raised KeyError: 'mask'"),
        (broken(metric="RMSE"), "metric is a str; give search.Metric"),
        (broken(evaluate=lambda *a: None), "evaluate returned a NoneType; return the RMSE"),
        (broken(evaluate=lambda *a: float("nan")), "RMSE nan on val; train it, or mend evaluate"),
        (broken(evaluate=fails(ZeroDivisionError("no boxes"))), "evaluate raised ZeroDivision"),
        (broken(train=lambda *a: []), "no batches"),
        (broken(train=fails(FileNotFoundError("photos"))), "train raised FileNotFoundError"),
        (broken(inputs=lambda *a: []), r"inputs\(\) gave no batches"),
        (broken(inputs=lambda *a: [torch.zeros(2, 3, 8, 8)]), "inputs raised RuntimeError"),
        (broken(example=lambda *a: None), r"example\(\) gave a NoneType without a tensor"),
        (broken(model=lambda *a: "net"), r"model\(\) gave a str; return an nn.Module"),
        (broken(model=lambda *a: Locked()), "Locked cannot be copied"),
        (broken(model=fails(OSError("no weights"))), r"model\(\) raised OSError: no weights"),
        (object(), "without metric; a task has"),
    ],
)
def test_what_is_wrong_with_a_task_is_one_line_before_anything_is_searched(
    task: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said) as error:
        base_model.prepare(CONFIG, given=Given(task=task), **QUIET)
    assert "\n" not in str(error.value)


def test_a_task_that_cannot_be_sent_says_so() -> None:
    with pytest.raises(UserError, match=r"Broken cannot be sent to the workers .*lock"):
        arguments.given_task(broken(lock=threading.Lock()), CONFIG)
    task = Sums()
    task.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="cannot be sent to the workers"):
        arguments.given_task(task, CONFIG)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> trial.TrialContext:
    out = str(tmp_path_factory.mktemp("own"))
    config = replace(CONFIG, out=out, finetune=RecipeConfig(epochs=1, lr=0.01, optimizer="adamw"))
    base = base_model.prepare(config, given=Given(task=Sums()), **QUIET)
    return trial.TrialContext.open(config, replace(base, given=Given(task=Sums())))


def test_a_trial_of_it_is_a_row_with_the_tasks_score(work: trial.TrialContext) -> None:
    *_, last = trial.run(work, candidate(work))
    assert last["status"] == "complete" and 0 < last["score_val"] < 1
    assert last["score_val"] <= last["score_repaired"], "what training made worse is not kept"
    assert Path(last["checkpoint"]).is_file()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"evaluate": fails(KeyError("boxes"))}, "user:Sums: evaluate raised KeyError: 'boxes'"),
        ({"loss": lambda *a: torch.tensor(float("nan"), requires_grad=True)}, "loss is nan"),
        ({"evaluate": lambda *a: "good"}, "evaluate returned a str"),
    ],
)
def test_what_only_a_trial_meets_is_a_failed_row(
    work: trial.TrialContext, parts: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work.task, "task", broken(**parts))
    *_, last = trial.run(work, candidate(work))
    assert last["status"] == "failed" and said in last["reason"]
    assert "\n" not in last["reason"]


def test_less_is_better_where_a_training_is_judged() -> None:
    net = nn.Linear(1, 1)
    kept = Repaired(net, 0.4, Sums.metric)
    assert kept.better(net, 0.3) == (TUNED, 0.3)
    assert kept.better(net, 0.5) == (REPAIRED, 0.4)


def test_the_record_and_the_box_of_a_metric_of_which_less_is_better(
    work: trial.TrialContext,
) -> None:
    from search.pareto import CostAxis, Reference, front
    from search.storage import record

    facts = base_model.facts(work.base, work.problem)
    found = record.create(work.config, facts, Sums.metric)
    assert found["metric"]["name"] == "RMSE" and found["reference_point"]["score"] == 1.0
    reference = record.reference(found)
    assert (reference.gain, reference.best) == (-1.0, 0.0)
    half = [(0.0, Sums.metric.gain(0.5))]
    assert front.hypervolume(half, reference) == pytest.approx(0.5)
    unknown = Reference.of(CostAxis("macs", 100), search.Metric("PSNR", "dB"), 30.0)
    assert (unknown.gain, unknown.best) == (0.0, 30.0)
    assert front.hypervolume(np.array([[50, 15.0]]), unknown) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        (search.Metric("mIoU"), 0.8765, "87.65%"),
        (search.Metric("PSNR", "dB"), 28.314, "28.31 dB"),
        (search.Metric("RMSE", "", "min", digits=3), 0.41236, "0.412"),
    ],
)
def test_people_are_told_in_the_metrics_unit(metric: Any, value: float, shown: str) -> None:
    assert metric.show(value) == shown
    assert search.Metric.from_json(metric.to_json()) == metric
