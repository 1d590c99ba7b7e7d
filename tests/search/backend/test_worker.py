"""What a re-used worker makes of trials that raise, run out of memory or break the GPU."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pruning.errors import UserError
from search.backend import worker
from search.trial import trial
from search.trial.trial import FATAL


def make_worker(
    monkeypatch: pytest.MonkeyPatch, body: Any, open_context: Any = lambda *a: None
) -> Any:
    monkeypatch.setattr(worker.cluster, "worker_device", lambda config: "cpu")
    monkeypatch.setattr(worker.preflight, "check_joined", lambda config: None)
    made = worker.TrialWorker.__new__(worker.TrialWorker)
    made.setup({}, object(), object(), open_context, body, dict)  # type: ignore[arg-type]
    return made


def test_a_worker_outlives_what_its_trials_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(work: Any, candidate: Any) -> Iterator[dict[str, Any]]:
        yield {"epochs": 0.0}
        if "error" in candidate:
            raise candidate["error"]
        if "end" not in candidate:
            yield {"status": "complete"}

    actor = make_worker(monkeypatch, body)
    assert actor.step() == {"epochs": 0.0, "done": False}
    assert actor.step() == {"status": "complete", "done": True}
    for config, report in (
        ({"error": ValueError("no")}, {"reason": "ValueError: no"}),
        (
            {"error": UserError("disk full; free some")},
            {"reason": "disk full; free some", FATAL: True},
        ),
        ({"end": True}, {"reason": "the trial ended without a result"}),
    ):
        assert actor.reset_config(config)
        actor.step()
        assert actor.step() == {"status": "failed", "done": True} | report


def test_a_worker_ends_with_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access and the like all that a process asks of the GPU fails."""

    def attempt(work: Any, candidate: Any, recipe: Any, reason: str = "") -> Iterator[dict]:
        yield {"epochs": 0.0}
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(trial, "_attempt", attempt)
    actor = make_worker(monkeypatch, trial.run, lambda *a: small_work())
    actor.step()
    with pytest.raises(torch.AcceleratorError):
        actor.step()


def test_a_worker_that_cannot_open_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise UserError("no images; name their folder")

    report = make_worker(monkeypatch, None, refuse).step()
    assert report[FATAL] and report["done"] and "no images" in report["reason"]


def small_work() -> Any:
    recipe = SimpleNamespace(recipe=lambda: trial.Recipe(batch=100))
    task = SimpleNamespace(halves=True)
    return SimpleNamespace(config=SimpleNamespace(finetune=recipe), device="cpu", task=task)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("x"),
    ],
)
def test_out_of_memory_is_tried_again_once_with_half_the_batch(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    batches: list[int] = []

    def attempt(work: Any, candidate: Any, recipe: Any, reason: str = "") -> Iterator[dict]:
        batches.append(recipe.batch)
        yield {"epochs": 0.0, "reason": reason}
        if len(batches) <= fails[0]:
            raise error
        yield {"status": "complete", "reason": reason}

    monkeypatch.setattr(trial, "_attempt", attempt)
    fails = [1]
    for fails[0], status in ((1, "complete"), (2, "failed")):
        batches.clear()
        *_, last = trial.run(small_work(), None)  # type: ignore[arg-type]
        if str(error) == "x":
            assert batches == [100] and last["status"] == "failed", "not a matter of memory"
        else:
            assert batches == [100, 50] and last["status"] == status
            assert status == "failed" or "batch 50 instead of 100" in last["reason"]


def test_what_ran_out_of_memory_is_gone_before_it_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def attempt(work: Any, candidate: Any, recipe: Any, reason: str = "") -> Iterator[dict]:
        assert all(tensor() is None for tensor in held), "the retry needs its memory"
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        yield {"epochs": 0.0}
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trial, "_attempt", attempt)
    *_, last = trial.run(small_work(), None)  # type: ignore[arg-type]
    assert len(held) == 2 and last["reason"] == "OutOfMemoryError: CUDA out of memory"
    assert held[1]() is None
