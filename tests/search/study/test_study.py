"""A study and its ledger: every trial ends, none runs twice, and a study built anew is the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.trial import TrialState

from pruning.errors import UserError
from search.storage.row import Outcome, arch_hash
from search.study.candidate import Candidate, Limits, Seed
from search.study.samplers import NAMES
from search.study.width_space import WidthSpace
from tests.search.spaces import network
from tests.search.study.studies import (
    STATES,
    assert_study_is_the_ledger,
    make_study,
    outcome,
    run,
    seeds,
)


@pytest.mark.parametrize("sampler", NAMES)
def test_every_trial_ends_and_a_rebuilt_study_equals_the_live_one(tmp_path, sampler):
    trials = 13 if sampler == "gp" else 60
    limits = Limits(max_macs=0.8 * network("digits")[1].base_macs)
    study = make_study(tmp_path, sampler=sampler, seeds=seeds("digits"), limits=limits)
    run(study, trials)
    assert_study_is_the_ledger(study)
    assert {row.status for row in study.rows} == set(STATES)

    rebuilt = make_study(tmp_path, sampler=sampler, seeds=seeds("digits"), limits=limits)
    assert_study_is_the_ledger(rebuilt)
    for row in study.rows:
        live, again = study.trial_of(row), rebuilt.trial_of(row)
        for field in ("params", "distributions", "values", "state", "constraints"):
            assert getattr(live, field) == getattr(again, field), (row, field)
    run(rebuilt, trials + 1)  # and goes on, with another sampler as well
    assert_study_is_the_ledger(rebuilt)
    other = make_study(tmp_path, sampler="random", limits=limits)
    run(other, trials + 6)
    assert_study_is_the_ledger(other)


def test_no_architecture_runs_twice_even_in_a_space_with_few(tmp_path):
    """The lattice has 2 free groups here: the study must leave it exhausted, not repeat itself."""
    graph, cost, lat = network("digits")
    space = WidthSpace(graph, cost, lat, offsets="none", low=0.5)
    study = make_study(tmp_path, space=space, sampler="tpe", seeds=seeds("digits") * 2)
    ran = []
    for _ in range(80):
        candidate = study.ask()
        assert candidate is not None
        ran.append((candidate.method, candidate.widths))
        study.tell(candidate.trial_id, outcome(study, candidate))
    assert len(set(ran)) == len(ran)
    assert {row.proposal["kind"] for row in study.rows} == {"seed", "widths", "mutation"}
    assert_study_is_the_ledger(study)


def test_infeasible_proposals_are_rows_and_never_run(tmp_path):
    _, cost, _ = network("digits")
    limits = Limits(
        max_macs=0.5 * cost.base_macs,
        min_macs=0.1 * cost.base_macs,
        max_params=0.4 * cost.base_params,
    )
    study = make_study(tmp_path, limits=limits, seeds=seeds("digits", 8))
    for _ in range(40):
        candidate = study.ask()
        widths = np.array(candidate.widths)
        assert limits.min_macs <= cost.macs(widths) <= limits.max_macs
        assert cost.params(widths) <= limits.max_params
        study.tell(candidate.trial_id, outcome(study, candidate))
    refused = [row for row in study.rows if row.status == "infeasible"]
    assert refused and study.finished == 40
    for row in refused:
        over = row.macs > limits.max_macs or row.macs < limits.min_macs
        assert over or row.params > limits.max_params
        assert "missed by" in row.reason and row.score_val is None
        assert max(study.trial_of(row).constraints.values()) > 0


def test_seeds_come_first_with_their_own_widths_and_are_not_run_again(tmp_path):
    graph, cost, lat = network("resnet56")
    rng = np.random.default_rng(0)
    uneven = [tuple(lat.snap(graph.widths * rng.uniform(0.2, 1, 30)).tolist()) for _ in range(3)]
    wanted = [Seed(f"uneven {i}", "uniform", widths) for i, widths in enumerate(uneven)]
    study = make_study(tmp_path, "resnet56", seeds=wanted)
    for seed in wanted[:2]:
        candidate = study.ask()
        assert (candidate.widths, candidate.source, candidate.kind) == (
            seed.widths,
            seed.name,
            "seed",
        )
        assert candidate.asked == cost.macs(np.array(seed.widths))
        study.tell(candidate.trial_id, Outcome(status="complete", score_val=0.5))
    study.ask()  # the third runs when the session dies
    study = make_study(tmp_path, "resnet56", seeds=wanted)
    assert study.ask().widths == wanted[2].widths
    assert study.ask().kind == "widths"


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_complete_trial_without_a_number_is_failed(tmp_path, value):
    study = make_study(tmp_path)
    row = study.tell(study.ask().trial_id, Outcome(status="complete", score_val=value))
    assert (row.status, row.score_val) == ("failed", None) and row.reason
    assert study.trial_of(row).state == TrialState.FAIL
    assert_study_is_the_ledger(study)


def test_an_outcome_measured_infeasible_teaches_a_constraint(tmp_path):
    study = make_study(tmp_path)
    late = Outcome(status="infeasible", reason="4.1 ms exceeds 3 ms", score_val=0.9)
    row = study.tell(study.ask().trial_id, late)
    assert study.trial_of(row).constraints == {"measured": 1.0}
    assert make_study(tmp_path).trial_of(row).constraints == {"measured": 1.0}


def test_a_ledger_that_cannot_be_written_leaves_no_running_trial(tmp_path):
    study = make_study(tmp_path)
    candidate = study.ask()
    (tmp_path / "trials").write_text("in the way")
    with pytest.raises(UserError):
        study.tell(candidate.trial_id, Outcome(status="complete", score_val=0.5))
    assert not study.running and not study.rows
    assert study.proposer.study.trials[0].state == TrialState.FAIL


@pytest.mark.parametrize("offsets", ["auto", "none"])
def test_failed_trials_run_again_where_that_is_asked_for(tmp_path, offsets):
    """Under their own names, and not lost where the retry dies; another space may be searched."""
    study = make_study(tmp_path, seeds=seeds("digits"))
    run(study, 20)
    before = {row.trial_id: row for row in study.rows}
    failed = [row for row in study.rows if row.status == "failed"]
    graph, cost, lat = network("digits")
    options = {"space": WidthSpace(graph, cost, lat, offsets=offsets), "retry_failed": True}

    retrying = make_study(tmp_path, seeds=seeds("digits"), **options)
    assert retrying.finished == 20 - len(failed) and len(failed) == 4
    lost, kept, nan, again = [retrying.ask() for _ in failed]
    assert [c.trial_id for c in (lost, kept, nan, again)] == [row.trial_id for row in failed]
    retrying.abandon(lost.trial_id)
    retrying.tell(kept.trial_id, Outcome(status="complete", score_val=0.5))
    retrying.tell(nan.trial_id, Outcome(status="complete", score_val=math.nan))
    row = retrying.tell(again.trial_id, Outcome(status="complete", score_val=0.25, wall_s=1.0))
    assert (row.widths, row.proposal) == (failed[3].widths, failed[3].proposal)
    assert retrying.trial_of(row).values[0] == 0.25
    assert retrying.waiting == 1 and retrying.ask().trial_id == lost.trial_id
    new = retrying.ask()
    assert new.trial_id not in before

    after = {row.trial_id: row for row in retrying.ledger.rows()}
    assert after.keys() == before.keys()
    changed = {trial: row.status for trial, row in after.items() if row != before[trial]}
    names = [c.trial_id for c in (kept, nan, again)]
    assert changed == dict(zip(names, ("complete", "failed", "complete"), strict=True))
    assert len(make_study(tmp_path, **options)._failed) == 2
    assert_study_is_the_ledger(make_study(tmp_path))


def test_the_same_history_leads_to_the_same_proposals(tmp_path):
    ran = []
    for folder in ("once", "killed"):
        study = make_study(tmp_path / folder, seeds=seeds("digits"), seed=7)
        for number in range(20):
            if folder == "killed" and number in (6, 13):
                study.ask()  # in flight when the driver dies
                study = make_study(tmp_path / folder, seeds=seeds("digits"), seed=7)
            candidate = study.ask()
            study.tell(candidate.trial_id, outcome(study, candidate))
        ran.append([(row.trial_id, row.widths, row.proposal) for row in study.ledger.rows()])
    assert ran[0] == ran[1]


def test_a_candidate_survives_ray_tune_s_configuration(tmp_path):
    candidate = make_study(tmp_path).ask()
    config = candidate.to_config()
    assert not any(isinstance(value, dict) or "/" in key for key, value in config.items())
    assert Candidate.from_config(config | {"other": 1}) == candidate
    assert candidate.arch_hash == arch_hash("uniform", candidate.widths, {"epochs": 1})
