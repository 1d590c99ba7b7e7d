"""A trial that begins with a trained parent, and a final training with its trial: digits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.models import read_tensors
from search.config import Config, loader
from search.storage import Row
from search.study import Candidate
from search.trial import BaseModel, Job, TrialContext, base_model, final_training, trial
from tests.search import runs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    out = tmp_path_factory.mktemp("base")
    return base_model.prepare(configured(out, "--base.epochs=4"), say=lambda _: None)


def configured(out: Path, *flags: str) -> Config:
    return loader.load(["digits", f"--out={out}", "--finetune.epochs=3", *flags])


@pytest.fixture
def work(tmp_path: Path, base: BaseModel) -> Iterator[TrialContext]:
    before = torch.get_num_threads()
    yield TrialContext.open(configured(tmp_path), base)
    torch.set_num_threads(before)


def asked(work: TrialContext, name: str, ratio: float, parent: str = "") -> Candidate:
    widths = work.problem.lattice.snap(ratio * work.problem.graph.widths)
    return Candidate(
        trial_id=name,
        arch_hash=f"{int(100 * ratio):07x}",
        kind="widths",
        source="",
        method="gain-curve",
        widths=tuple(widths.tolist()),
        scalars={},
        asked=1.0,
        params={},
        parent=parent,
    )


def ended(work: TrialContext, candidate: Candidate) -> dict[str, Any]:
    *_, last = trial.run(work, candidate)
    return last


def row_of(candidate: Candidate, report: dict[str, Any]) -> Row:
    return Row(
        trial_id=candidate.trial_id,
        arch_hash=candidate.arch_hash,
        method=candidate.method,
        proposal=candidate.proposal,
        macs=1,
        params=1,
        **{
            name: report[name]
            for name in ("status", "score_val", "state", "epochs", "checkpoint", "seed")
        },
        widths=tuple(report["widths"]),
    )


def test_the_child_is_the_parents_network_cut_further(work: TrialContext) -> None:
    parent = asked(work, "00001-p", 0.3)
    trained = ended(work, parent)
    assert trained["state"] == "tuned", "better than repaired alone"
    reports = [ended(work, asked(work, name, 0.2, "00001-p")) for name in ("00002-c", "00003-c")]
    alone = ended(work, asked(work, "00004-c", 0.2))
    same = ("score_repaired", "score_val", "widths", "seed")
    assert [reports[0][name] for name in same] == [reports[1][name] for name in same]
    weights = [read_tensors(report["checkpoint"])[0] for report in (*reports, alone)]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), "the same parent and seed, the same network"
    assert weights[0].keys() == weights[2].keys()
    assert any(not torch.equal(tensor, weights[2][name]) for name, tensor in weights[0].items())
    widths = np.array(parent.widths)
    begun = trial.slim(work, "gain-curve", widths, {}, "00001-p")
    whole = read_tensors(trained["checkpoint"])[0]
    assert work.score(begun.model) == pytest.approx(trained["score_val"], abs=0.02)
    assert {k: v.shape for k, v in begun.model.state_dict().items()} == {
        k: v.shape for k, v in whole.items()
    }


def test_a_parent_that_is_gone_fails_its_trial_alone(work: TrialContext) -> None:
    report = ended(work, asked(work, "00010-c", 0.3, "00009-x"))
    assert report["status"] == "failed" and "its parent 00009-x is gone" in report["reason"]
    assert trial.FATAL not in report


@pytest.mark.parametrize("parents", [True, False])
def test_a_final_training_begins_with_its_trials_weights(
    work: TrialContext, parents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(work.config, search=replace(work.config.search, parents=parents))
    work = replace(work, config=config)
    candidate = asked(work, "00001-p", 0.5)
    row = row_of(candidate, report := ended(work, candidate))
    began: list[float] = []
    before = TrialContext.before

    def spied(self: TrialContext, model: torch.nn.Module, score: float) -> Any:
        began.append(score)
        return before(self, model, score)

    monkeypatch.setattr(TrialContext, "before", spied)
    list(final_training.run(work, Job(row, 0)))
    kept = report["score_val"] if parents else report["score_repaired"]
    assert began == [pytest.approx(kept, abs=1e-9)]
    Path(report["checkpoint"]).unlink()
    list(final_training.run(work, Job(row, 1)))
    assert began[1] == pytest.approx(report["score_repaired"], abs=1e-9), "cut anew"


def test_one_shots_are_trained_for_as_long_as_members_were(tmp_path: Path) -> None:
    row = replace(runs.make_rows(2)[1], checkpoint="")
    flags = ("--finetune.epochs=2", "--search.final_epochs=3")
    found = [
        final_training.epochs_of(configured(tmp_path, *flags, *more), row)
        for more in ((), ("--search.parents=false",), ("--search.final_seeds=0",))
    ]
    assert found == [5, 3, 2]
