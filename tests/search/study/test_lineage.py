"""Parents: the nearest larger network that was trained, and none that cannot be cut to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pruning.methods import Problem
from search.pareto import CostAxis
from search.storage import TUNED, Outcome, Row
from search.study import warm_start
from search.study.candidate import Candidate, Proposal
from search.study.lineage import Lineage
from tests.search.spaces import network
from tests.search.study.studies import make_study

GRAPH, COST, LATTICE = network("digits")


def widths(ratio: float) -> tuple[int, ...]:
    return tuple(LATTICE.snap(ratio * GRAPH.widths).tolist())


def row(number: int, vector: Sequence[int], **changes: object) -> Row:
    found = Row(
        trial_id=f"{number:05d}-x",
        arch_hash=str(number),
        method="uniform",
        proposal={"scalars": {}},
        widths=tuple(vector),
        macs=int(COST.macs(np.array(vector))),
        params=1,
        status="complete",
        state=TUNED,
        score_val=0.9,
        checkpoint=f"checkpoints/{number:05d}-x.safetensors",
    )
    return replace(found, **changes)


def proposal(vector: Sequence[int], method: str = "uniform", **scalars: float) -> Proposal:
    return Proposal("widths", method, 1.0, tuple(vector), scalars)


def lineage(*rows: Row) -> Lineage:
    found = Lineage(CostAxis("macs", COST.base_macs))
    for each in rows:
        found.add(each)
    return found


def test_the_nearest_larger_one() -> None:
    known = lineage(row(0, widths(0.9)), row(1, widths(0.5)), row(2, widths(0.7)))
    assert known.of(proposal(widths(0.6))) == "00002-x"
    assert known.of(proposal(widths(0.2))) == "00001-x"
    assert known.of(proposal(widths(0.5))) == "00002-x", "not itself"
    assert known.of(proposal(widths(1.0))) == "", "the base model's"


def test_what_was_added_after_a_question_counts_for_the_next() -> None:
    known = lineage(row(0, widths(0.9)))
    assert known.of(proposal(widths(0.4))) == "00000-x"
    known.add(row(1, widths(0.7)))
    known.add(row(2, widths(0.5)))
    assert known.of(proposal(widths(0.4))) == "00002-x"
    assert known.of(proposal(widths(0.6))) == "00001-x"


def test_one_group_that_is_too_narrow_is_enough_to_refuse() -> None:
    narrow = np.array(widths(0.7))
    narrow[2] = LATTICE.low[2]
    assert lineage(row(0, narrow.tolist())).of(proposal(widths(0.4))) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "failed"},
        {"status": "stopped"},
        {"state": "repaired"},
        {"checkpoint": ""},
        {"method": "peel"},
        {"method": "prunenet"},
    ],
    ids=str,
)
def test_who_cannot_be_a_parent(changes: dict[str, str]) -> None:
    method = changes.get("method", "uniform").replace("peel", "uniform")
    assert lineage(row(0, widths(0.9), **changes)).of(proposal(widths(0.4), method)) == ""


def test_scalars_that_select_must_be_the_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning import methods

    known = lineage(row(0, widths(0.9), proposal={"scalars": {"share": 0.5}}))
    assert known.of(proposal(widths(0.4), share=0.2)) == "00000-x"
    monkeypatch.setattr(type(methods.get("uniform")), "scalars_select", True)
    assert known.of(proposal(widths(0.4), share=0.2)) == ""
    assert known.of(proposal(widths(0.4), share=0.5)) == "00000-x"


def trained(found: Candidate, **changes: object) -> Outcome:
    place = f"checkpoints/{found.trial_id}.safetensors"
    values = {"status": "complete", "state": TUNED, "score_val": 0.9, "checkpoint": place}
    return Outcome(**values | {"widths": found.widths} | changes)


@pytest.mark.parametrize("there", [True, False])
def test_a_study_names_them_and_a_later_session_those_whose_weights_are_there(
    tmp_path: Path, there: bool
) -> None:
    study = make_study(tmp_path, parents=True)
    named = {}
    for _ in range(12):
        asked = study.ask()
        assert asked is not None
        named[asked.trial_id] = asked.parent
        row = study.tell(asked.trial_id, trained(asked))
        assert row.parent == asked.parent
        place = tmp_path / "checkpoints" / f"{asked.trial_id}.safetensors"
        place.parent.mkdir(exist_ok=True)
        place.touch()
        if not there:
            place.unlink()
    assert len(set(named.values())) > 3, "some have parents"
    for name in filter(None, named.values()):
        assert name in named
    later = make_study(tmp_path, parents=True)
    assert {row.trial_id: row.parent for row in later.rows} == named
    assert bool(later.lineage.rows) is there
    assert not make_study(tmp_path).lineage.rows, "off by a flag"


def test_a_trial_that_runs_again_has_the_parent_that_it_had(tmp_path: Path) -> None:
    study = make_study(tmp_path, parents=True)
    (tmp_path / "checkpoints").mkdir()
    while True:
        asked = study.ask()
        assert asked is not None
        if asked.parent:
            break
        study.tell(asked.trial_id, trained(asked))
        (tmp_path / "checkpoints" / f"{asked.trial_id}.safetensors").touch()
    study.tell(asked.trial_id, Outcome(status="failed", reason="out of memory"))
    again = make_study(tmp_path, parents=True, retry_failed=True).ask()
    assert again is not None
    assert (again.trial_id, again.parent) == (asked.trial_id, asked.parent)
    (tmp_path / "checkpoints" / f"{asked.parent}.safetensors").unlink()
    without = make_study(tmp_path, parents=True, retry_failed=True).ask()
    assert without is not None
    assert (without.trial_id, without.parent) == (asked.trial_id, "")


@pytest.mark.parametrize(("budget", "falls"), [(40, True), (8, False), (None, False)])
def test_seeds_run_from_large_to_small_where_there_is_room_for_all(
    budget: int | None, falls: bool
) -> None:
    problem = Problem(GRAPH, LATTICE)
    seeds = warm_start.plan(problem, {}, ["uniform"], 0.05, 1.0, budget=budget)
    costs = [COST.macs(np.array(seed.widths)) for seed in seeds]
    assert (costs == sorted(costs, reverse=True)) is falls
    assert sorted(costs) == sorted(
        COST.macs(np.array(seed.widths))
        for seed in warm_start.plan(problem, {}, ["uniform"], 0.05, 1.0)
    )
