from __future__ import annotations

import math
from collections import Counter

import pytest
from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher

from pruning.errors import UserError
from search.backend.searcher import ALIKE, FrontierSearcher, outcome_of
from search.pareto import Patience, front
from search.storage.ledger import Ledger
from search.storage.row import Outcome
from search.study.candidate import Candidate, StudyOptions
from search.study.study import Study
from search.study.width_space import WidthSpace
from tests.search.spaces import accuracy, network


def make_study(run, **options) -> Study:
    graph, cost, lat = network("digits")
    options = StudyOptions(concurrency=2, **options)
    return Study(WidthSpace(graph, cost, lat), Ledger(run), cost, lat, options)


def trainable(config: dict) -> None:
    """By its number, a trial raises, gives NaN, reports no accuracy at first, or is stopped."""
    candidate = Candidate.from_config(config)
    number = int(candidate.trial_id.split("-")[0])
    if number == 2:
        raise RuntimeError("broken on purpose")
    tune.report({"epochs": 0.5, "score_val": None if number == 3 else 0.3})
    if number == 4:
        tune.report({"epochs": 1.0, "score_val": 0.35, "give_up": True})
    top1 = math.nan if number == 5 else 0.4 + number / 100
    tune.report({"epochs": 1.0, "score_val": top1, "status": "complete", "wall_s": 1.5})


def give_up(trial_id: str, result: dict) -> bool:
    return bool(result.get("give_up"))


def fit(searcher: FrontierSearcher, folder) -> None:
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=-1, max_concurrent_trials=2, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(folder), name="tune", stop=give_up, verbose=0),
    ).fit()


def test_tune_runs_the_budget_and_every_end_is_a_row(ray_local, tmp_path):
    searcher = FrontierSearcher(make_study(tmp_path / "run"), budget=8)
    fit(searcher, tmp_path / "first")
    study = searcher.study
    rows = {row.number: row for row in study.ledger.rows()}
    assert len(rows) == study.finished == 8 and not study.running
    assert Counter(row.status for row in rows.values()) == {
        "complete": 5,
        "failed": 2,
        "stopped": 1,
    }
    assert rows[2].status == "failed" and "worker" in rows[2].reason
    assert rows[5].status == "failed" and "finite" in rows[5].reason
    assert (rows[4].status, rows[4].score_val) == ("stopped", 0.35)
    assert rows[3].score_val == pytest.approx(0.43)
    assert (rows[3].wall_s, rows[3].epochs) == (1.5, 1.0)
    states = {row.status: study.trial_of(row).state for row in rows.values()}
    assert states == {
        "complete": TrialState.COMPLETE,
        "failed": TrialState.FAIL,
        "stopped": TrialState.PRUNED,
    }

    more = FrontierSearcher(make_study(tmp_path / "run"), budget=10)
    fit(more, tmp_path / "second")
    again = {row.number: row for row in more.study.ledger.rows()}
    assert len(again) == 10 and all(again[n] == row for n, row in rows.items())


def test_budget_waits_for_running_trials_and_then_finishes(tmp_path):
    searcher = FrontierSearcher(make_study(tmp_path), budget=2)
    assert isinstance(searcher.suggest("a"), dict) and isinstance(searcher.suggest("b"), dict)
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", {"status": "complete", "score_val": 0.5})
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("b")  # removed before it ran: not a row, and its place is free
    assert isinstance(searcher.suggest("c"), dict)
    searcher.on_trial_complete("c", error=True)
    searcher.on_trial_complete("unknown", {"status": "complete"})
    assert searcher.suggest("d") == FrontierSearcher.FINISHED
    assert searcher.metric is None and searcher.mode is None
    assert [row.status for row in searcher.study.rows] == ["complete", "failed"]


@pytest.mark.parametrize("alike", [True, False])
def test_trials_that_all_fail_alike_end_the_search(tmp_path, alike):
    searcher = FrontierSearcher(make_study(tmp_path / "run"), budget=50)
    for number in range(2 * ALIKE):
        if searcher.suggest(f"t{number}") == FrontierSearcher.FINISHED:
            break
        reason = "no memory left" if alike else f"reason {number}"
        searcher.on_trial_complete(f"t{number}", {"status": "failed", "reason": reason})
    if not alike:
        assert searcher.error is None and searcher.study.finished == 2 * ALIKE
        return
    assert searcher.study.finished == ALIKE
    assert "failed alike (no memory left)" in str(searcher.error)


def test_all_that_failed_runs_again_and_may_fail_as_before(tmp_path):
    """Scattered failures come one after the other then: no sign of a machine that is at fault."""
    study = make_study(tmp_path)
    for number in range(3 * ALIKE):
        status = "failed" if number % 2 else "complete"
        study.tell(study.ask().trial_id, Outcome(status=status, reason="slow", score_val=0.5))
    failed = sum(row.status == "failed" for row in study.rows)
    assert failed > ALIKE
    # a budget of an earlier session, smaller than what is there: no new trial, each failed one
    searcher = FrontierSearcher(make_study(tmp_path, retry_failed=True), budget=3)
    for number in range(failed):
        assert isinstance(searcher.suggest(f"t{number}"), dict)
        searcher.on_trial_complete(f"t{number}", {"status": "failed", "reason": "slow"})
    assert searcher.suggest("new") == FrontierSearcher.FINISHED and searcher.error is None
    assert len(searcher.study.ledger.rows()) == 3 * ALIKE

    searcher = FrontierSearcher(make_study(tmp_path, retry_failed=True), budget=100)
    for number in range(ALIKE):
        searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", {"status": "failed", "reason": "another"})
    assert "failed alike (another)" in str(searcher.error)


def test_an_unwritable_ledger_ends_the_search(tmp_path):
    searcher = FrontierSearcher(make_study(tmp_path), budget=5)
    searcher.suggest("a")
    (tmp_path / "trials").write_text("in the way")
    searcher.on_trial_complete("a", {"status": "complete", "score_val": 0.5})
    assert isinstance(searcher.error, UserError)
    assert searcher.suggest("b") == FrontierSearcher.FINISHED


@pytest.mark.parametrize(
    ("result", "error", "expected"),
    [
        ({"status": "complete", "score_val": 0.5, "other": 1, "pid": 3}, False, ("complete", "")),
        ({"score_val": 0.5}, False, ("stopped", "")),
        ({"status": "failed", "reason": "OOM twice"}, False, ("failed", "OOM twice")),
        ({"status": "infeasible", "reason": "5 ms"}, False, ("infeasible", "5 ms")),
        ({"status": "well done"}, False, ("failed", "unknown status 'well done' reported")),
    ],
)
def test_outcome_of_a_last_report(result, error, expected):
    outcome = outcome_of(result, error)
    assert (outcome.status, outcome.reason) == expected
    assert outcome.score_val == result.get("score_val")
    assert isinstance(outcome, Outcome)


def test_patience_ends_a_search_and_a_rebuilt_one_has_nothing_left_to_run(tmp_path):
    graph, cost, _ = network("digits")
    reference = front.reference_point(cost.base_macs, 10)
    patience = Patience(6, 0.01, reference)
    searcher = FrontierSearcher(make_study(tmp_path), 200, patience)
    for number in range(200):
        config = searcher.suggest(str(number))
        if config == Searcher.FINISHED:
            break
        top1 = accuracy(graph, config["widths"])
        report = {"status": "complete", "score_val": top1, "widths": config["widths"]}
        searcher.on_trial_complete(str(number), report)
    study = searcher.study
    assert 12 < study.finished < 150 and study.settled(patience) and study.over(200, patience)
    rebuilt = make_study(tmp_path)
    assert rebuilt.over(200, patience)
    assert FrontierSearcher(rebuilt, 200, patience).suggest("again") == Searcher.FINISHED
    assert not rebuilt.over(200, None) and rebuilt.over(study.finished, None)


def test_patience_waits_for_what_runs(tmp_path):
    graph, cost, _ = network("digits")
    patience = Patience(1, 0.5, front.reference_point(cost.base_macs, 10))
    searcher = FrontierSearcher(make_study(tmp_path), 200, patience)
    configs = [searcher.suggest(str(i)) for i in range(4)]
    for i in (0, 1, 2):
        widths = configs[i]["widths"]
        report = {"status": "complete", "score_val": accuracy(graph, widths), "widths": widths}
        searcher.on_trial_complete(str(i), report)
    assert searcher.study.settled(patience)
    assert searcher.suggest("4") is None, "one runs: wait"
    searcher.on_trial_complete("3", {"status": "failed", "reason": "no luck"})
    assert searcher.suggest("4") == Searcher.FINISHED
