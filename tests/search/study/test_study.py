from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from optuna.trial import TrialState

from pruning.errors import UserError
from pruning.graph.widths import fit, uniform
from search.pareto import front
from search.pareto.strata import Strata, alike
from search.storage.ledger import Ledger
from search.storage.row import Outcome, arch_hash
from search.study.candidate import Candidate, Limits, Seed, StudyOptions
from search.study.method_space import MethodSpace, MixedSpace
from search.study.samplers import NAMES, WINDOW
from search.study.study import Study
from search.study.width_space import RATIO, WidthSpace
from tests.search.spaces import Scalar, accuracy, network

STATES = {"complete": "COMPLETE", "stopped": "PRUNED", "infeasible": "PRUNED", "failed": "FAIL"}


def seeds(name: str, count: int = 4) -> list[Seed]:
    graph, cost, lat = network(name)
    found = []
    for share in np.geomspace(0.1, 1, count):
        widths = fit(cost, lambda t: uniform(graph, lat, t), share * cost.base_macs)
        found.append(Seed(f"uniform {share:.2f}", "uniform", tuple(widths.tolist())))
    return found


def make_study(tmp_path, name: str = "digits", space=None, **options) -> Study:
    graph, cost, lat = network(name)
    space = space or WidthSpace(graph, cost, lat)
    options = StudyOptions(recipe={"epochs": 1}, **options)
    return Study(space, Ledger(tmp_path), cost, lat, options)


def outcome(study: Study, candidate: Candidate, number: int = 0) -> Outcome:
    """Every fifth trial fails, every seventh is stopped; the others complete."""
    graph, _, lat = network("digits")
    widths = candidate.widths or tuple(lat.snap(graph.widths * candidate.asked**0))
    if number % 5 == 4:
        return Outcome(status="failed", reason="out of memory")
    status = "stopped" if number % 7 == 6 else "complete"
    return Outcome(status=status, widths=widths, score_val=accuracy(graph, widths), epochs=1.0)


def run(study: Study, trials: int, concurrency: int = 3) -> None:
    """Run until so many have ended, several at a time, the latest first."""
    open_: list[Candidate] = []
    while study.finished < trials:
        while len(open_) < concurrency:
            candidate = study.ask()
            assert candidate is not None
            open_.append(candidate)
        candidate = open_.pop()
        study.tell(candidate.trial_id, outcome(study, candidate, study.finished))
    study.close()


def assert_study_is_the_ledger(study: Study) -> None:
    rows = study.ledger.rows()
    assert sorted(study.rows, key=lambda row: row.number) == rows
    _, cost, _ = network("digits")
    for row in rows:
        trial = study.trial_of(row)
        assert trial.state.name == STATES[row.status]
        if row.status == "complete":
            expected = [row.score_val, row.macs / cost.base_macs]
            assert trial.values == pytest.approx(expected, rel=1e-12)
        assert trial.params == row.proposal["params"]
    assert not [t for t in study.proposer.study.trials if t.state == TrialState.RUNNING]
    hashes = Counter(row.arch_hash for row in rows)
    assert set(hashes.values()) == {1}


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


def test_warm_rows_teach_but_neither_count_nor_bar(tmp_path):
    first = make_study(tmp_path / "first")
    run(first, 20, concurrency=1)
    second = make_study(tmp_path / "second", warm=first.rows, seeds=[_as_seed(first)])
    assert second.finished == 0 and not second.ledger.rows()
    states = [t.state for t in second.proposer.study.trials]
    assert states.count(TrialState.COMPLETE) == sum(r.status == "complete" for r in first.rows)
    assert second.ask().widths == _as_seed(first).widths  # done there, not here


def _as_seed(study: Study) -> Seed:
    return Seed("again", "uniform", study.rows[0].widths)


def test_a_changed_space_still_learns_from_the_rows(tmp_path):
    graph, cost, lat = network("digits")
    run(make_study(tmp_path), 20)
    narrow = WidthSpace(graph, cost, lat, offset_range=0.2)
    study = make_study(tmp_path, space=narrow)
    for row in study.rows:
        trial = study.trial_of(row)
        assert set(trial.params) == set(narrow.distributions())
        assert trial.params[RATIO] == pytest.approx(
            np.clip(row.macs / cost.base_macs, narrow.low, narrow.high), rel=0.25
        )


def test_stratified_proposals_fill_the_bins(tmp_path):
    graph, cost, lat = network("digits")
    space = WidthSpace(graph, cost, lat)
    strata = Strata(space.low, space.high)
    study = make_study(tmp_path, space=space, strata=strata, stratify_every=1)
    for _ in range(20):
        candidate = study.ask()
        study.tell(candidate.trial_id, outcome(study, candidate))
    shares = [row.macs / cost.base_macs for row in study.rows]
    assert strata.hit(shares) >= 9
    assert strata.counts(shares).max() <= 4


def test_a_bin_where_nothing_is_feasible_does_not_draw_for_ever(tmp_path):
    """As under a limit on latency, which only running a network can tell."""
    graph, cost, lat = network("digits")
    space = WidthSpace(graph, cost, lat)
    strata = Strata(space.low, space.high)
    study = make_study(tmp_path, space=space, strata=strata)
    for _ in range(60):
        candidate = study.ask()
        slow = cost.macs(np.array(candidate.widths)) > 0.45 * cost.base_macs
        status = "infeasible" if slow else "complete"
        top1 = accuracy(graph, candidate.widths)
        study.tell(
            candidate.trial_id,
            Outcome(status=status, widths=candidate.widths, score_val=top1, wall_s=1.0),
        )
    aimed = [row for row in study.rows if row.number % study.options.stratify_every == 0]
    hopeless = int((strata.edges[1:] > 0.45).sum())
    assert sum(row.status == "infeasible" for row in aimed) <= hopeless + 1 < len(aimed) / 2


def test_strata_count_by_hand():
    strata = Strata(0.01, 1.0, bins=2)  # of widths 0.1 to 1: 0.55 of the channels are 30.25 %
    assert strata.counts([0.001, 0.05, 0.302, 0.303, 1.0, 2.0]).tolist() == [3, 3]
    assert strata.hit([0.5, 0.6]) == 1 and strata.hit([]) == 0
    similar = alike(0.02, 1.0)
    assert similar.bins == 14
    assert (similar.edges[1:] / similar.edges[:-1]).max() < 4 / 3 < similar.edges[1] / 0.02 * 1.04
    rng = np.random.default_rng(0)
    assert all(0.01 <= strata.sparse_share([0.5, 0.6, 0.05], rng) <= 0.3025 for _ in range(50))


def test_mixed_proposals_run_end_to_end(tmp_path):
    graph, cost, lat = network("digits")
    scalars = {"peel": {"rho": Scalar(0.5, 1.0)}, "cpmc": {"a": Scalar(0.1, 10.0, log=True)}}
    space = MixedSpace(
        WidthSpace(graph, cost, lat, methods=["uniform", "cpmc"]),
        MethodSpace(cost, lat, scalars),
    )
    study = make_study(tmp_path, space=space)
    run(study, 40)
    assert {row.proposal["kind"] for row in study.rows} >= {"widths", "threshold"}
    assert_study_is_the_ledger(study)
    assert_study_is_the_ledger(make_study(tmp_path, space=space))


def test_tpe_sees_a_window_with_the_frontier_in_it(tmp_path):
    study = make_study(tmp_path, sampler="tpe")
    run(study, WINDOW + 40)
    numbers, since = study.proposer._window()
    assert len(numbers) <= WINDOW and since == len(study.proposer.study.trials)
    done = [row for row in study.rows if row.status == "complete"]
    best = front.front(np.array([(row.macs, row.score_val) for row in done]))
    shown = set(numbers)
    assert {study.trial_of(done[i]).number for i in best[: WINDOW // 2]} <= shown
    latest = [study.trial_of(row).number for row in study.rows if row.status != "failed"][
        -WINDOW // 2 :
    ]
    assert set(latest) <= shown
    assert len(study.proposer.study.trials) > WINDOW  # hidden from the sampler only


def test_a_candidate_survives_ray_tune_s_configuration(tmp_path):
    candidate = make_study(tmp_path).ask()
    config = candidate.to_config()
    assert not any(isinstance(value, dict) or "/" in key for key, value in config.items())
    assert Candidate.from_config(config | {"other": 1}) == candidate
    assert candidate.arch_hash == arch_hash("uniform", candidate.widths, {"epochs": 1})


def test_unknown_sampler_and_slow_gp_say_so(tmp_path, caplog):
    with pytest.raises(UserError, match="nsga3"):
        make_study(tmp_path, sampler="cma")
    graph, cost, lat = network("resnet56")
    make_study(
        tmp_path, "resnet56", sampler="gp", space=WidthSpace(graph, cost, lat, offsets="group")
    )
    assert "31 parameters" in caplog.text


def test_search_beats_independent_random_widths(tmp_path):
    """PITFALLS 10: independent widths in 200 trials against seeds, ratio and offsets in 40."""
    graph, cost, lat = network("resnet56")
    reference = front.reference_point(cost.base_macs, 10)
    rng = np.random.default_rng(0)
    random = [lat.snap(graph.widths * rng.uniform(0.1, 1, 30)) for _ in range(200)]
    points = [(cost.macs(w), accuracy(graph, w)) for w in random]
    study = make_study(tmp_path, "resnet56", seeds=seeds("resnet56", 8))
    for _ in range(40):
        candidate = study.ask()
        top1 = accuracy(graph, candidate.widths)
        study.tell(candidate.trial_id, Outcome(status="complete", score_val=top1))
    found = [(row.macs, row.score_val) for row in study.rows]
    assert front.hypervolume(found, reference) > front.hypervolume(points, reference)
