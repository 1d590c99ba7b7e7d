"""What a study proposes: its samplers, the strata, other spaces, what others' rows teach it."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.trial import TrialState

from pruning.errors import UserError
from search.pareto import front
from search.pareto.strata import Strata, alike
from search.storage.row import Outcome
from search.study.candidate import Seed
from search.study.method_space import MethodSpace, MixedSpace
from search.study.samplers import WINDOW
from search.study.study import Study
from search.study.width_space import RATIO, WidthSpace
from tests.search.spaces import Scalar, accuracy, network
from tests.search.study.studies import assert_study_is_the_ledger, make_study, outcome, run, seeds


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
