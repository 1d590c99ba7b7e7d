"""Which points stay on the frontier once they are trained several times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.methods import Problem
from search.backend import cluster, final, retrain
from search.config import loader as configuration
from search.pareto import CostAxis, Metric
from search.storage.ledger import Ledger
from search.trial import final_training
from search.trial.final_training import Training
from tests.search import runs


def test_the_base_comes_back_where_a_lucky_trial_had_dominated_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single training above the base's accuracy at fewer MACs, whose mean is below it."""
    config = configuration.load(["digits", f"--out={tmp_path}/run", "--search.final_seeds=2"])
    whole, slim = runs.make_rows(2)
    rows = [replace(whole, score_val=0.95, epochs=0.0), replace(slim, score_val=0.96)]
    widths = {group.name: group.channels for group in runs.GRAPH.groups}
    base: Any = SimpleNamespace(
        val=0.95,
        test=0.94,
        metric=Metric(chance=0.1),
        info=SimpleNamespace(widths=widths, classes=10),
    )
    base.problem = lambda search: Problem(runs.GRAPH, runs.LATTICE)
    base.axis = lambda search: CostAxis("macs", runs.COST.base_macs)
    trained = []

    def train_all(config: Any, base: Any, batches: Any, share: Any, say: Any) -> None:
        for row, k in itertools.chain.from_iterable(batches):
            trained.append(row.trial_id)
            final_training.store(config, row, k, Training(k, 0.9, 0.9, 1.0, 1.0, "x"))

    monkeypatch.setattr(retrain, "train_all", train_all)
    members = final.measure(
        config, base, rows, cluster.TrialResources(1.0, 0.0, 1), lambda text: None
    )
    assert trained == [slim.trial_id] * 2, "the base model costs no training"
    assert [m.row.trial_id for m in members] == [slim.trial_id, whole.trial_id]
    assert members[-1].val_mean == base.val
    assert members[-1].trainings[0].test == base.test

    stopped = final.so_far(config, base, [*rows, replace(slim, trial_id="new", macs=1)])
    assert [(m.row.trial_id, m.best.test) for m in stopped] == [
        ("new", None),
        (slim.trial_id, 0.9),
        (whole.trial_id, base.test),
    ], "stopped between them, finished trainings count"


def test_a_member_without_a_final_training_keeps_its_trial_s_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run has another name than when the trial ended."""
    config = configuration.load(["digits", f"--out={tmp_path}/now", "--search.final_seeds=2"])
    slim = replace(runs.make_rows(2)[1], checkpoint="/was/elsewhere/checkpoints/a.safetensors")
    info = SimpleNamespace(widths={}, classes=10)
    base: Any = SimpleNamespace(info=info, metric=Metric(chance=0.1), val=0.95)
    base.problem = lambda search: Problem(runs.GRAPH, runs.LATTICE)
    base.axis = lambda search: CostAxis("macs", runs.COST.base_macs)
    monkeypatch.setattr(retrain, "train_all", lambda *args: None)
    said: list[str] = []
    (member,) = final.measure(
        config, base, [slim], cluster.TrialResources(1.0, 0.0, 1), said.append
    )
    assert (member.best.val, member.best.test) == (slim.score_val, None)
    assert member.best.checkpoint == f"{tmp_path}/now/checkpoints/a.safetensors"
    assert any("no final training" in line for line in said)


def test_a_final_training_tries_half_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    def train(work: Any, job: Any, recipe: Any) -> Iterator[dict[str, Any]]:
        batches.append(recipe.batch)
        yield {"epochs": 1.0}
        if len(batches) == 1:
            raise MemoryError
        return Training(0, 0.9, 0.9, 1.0, 1.0, "x")

    monkeypatch.setattr(final_training, "_train", train)
    config = configuration.load(["digits", f"--out={tmp_path}/run", "--finetune.batch=64"])
    work: Any = SimpleNamespace(config=config, device="cpu", task=SimpleNamespace(halves=True))
    job = final_training.Job(runs.make_rows(1)[0], 0)
    *_, last = final_training.run(work, job)
    assert batches == [64, 32]
    assert last["status"] == "complete" and "batch 32 instead of 64" in last["reason"]
    (last,) = final_training.run(work, job)
    assert last["status"] == "complete" and batches == [64, 32], "what is stored is done"


def test_a_job_passes_through_tune_whole() -> None:
    """Also one-shot networks, whose names have no number."""
    row = replace(runs.make_rows(2)[1], trial_id="oneshot-peel-50-abc")
    for k in (final_training.OWN, 3):
        job = final_training.Job(row, k)
        assert final_training.Job.from_config(job.to_config()) == job


def test_seconds_are_those_of_the_search_s_own_trainings(tmp_path: Path) -> None:
    config = configuration.load(["digits", f"--out={tmp_path}/run", "--search.final_seeds=2"])
    row = runs.make_rows(1)[0]
    Ledger(config.out).write(row)
    for k, owner in ((0, row), (1, row), (0, replace(row, trial_id="oneshot-peel"))):
        final_training.store(config, owner, k, Training(k, 0.9, 0.9, 1.0, 2.5, "x"))
    assert final.seconds(config) == 5.0
    (tmp_path / "run" / "finals" / f"{row.trial_id}-9-1.json").write_text("damaged")
    assert final.seconds(config) == 5.0


def test_seeds_go_where_neighbours_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four points: the middle two within their noise of each other, the others far apart."""
    config = configuration.load(["digits", f"--out={tmp_path}/run", "--search.final_seeds=5"])
    one = runs.make_rows(2)[1]
    tops = (0.6, 0.8, 0.802, 0.95)
    rows = [
        replace(one, trial_id=f"0000{i}-x", macs=10_000 * (i + 1), score_val=top1)
        for i, top1 in enumerate(tops)
    ]
    info = SimpleNamespace(widths={}, classes=10)
    base: Any = SimpleNamespace(info=info, metric=Metric(chance=0.1), val=0.95)
    base.problem = lambda search: Problem(runs.GRAPH, runs.LATTICE)
    base.axis = lambda search: CostAxis("macs", runs.COST.base_macs)
    trained: list[tuple[str, int]] = []

    def train_all(config: Any, base: Any, batches: Any, share: Any, say: Any) -> None:
        for row, k in itertools.chain.from_iterable(batches):
            trained.append((row.trial_id, k))
            val = row.score_val + (0.002 if k % 2 else -0.002)
            final_training.store(config, row, k, Training(k, val, val, 1.0, 1.0, "x"))

    monkeypatch.setattr(retrain, "train_all", train_all)
    members = final.measure(
        config, base, rows, cluster.TrialResources(1.0, 0.0, 1), lambda text: None
    )
    assert [len(m.trainings) for m in members] == [2, 5, 5, 2]
    again = list(trained)
    final.measure(config, base, rows, cluster.TrialResources(1.0, 0.0, 1), lambda text: None)
    assert trained == again, "a finished training is not repeated"
