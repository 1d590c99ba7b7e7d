"""What may go wrong with trials: fatal errors, workers that die, trials that are late."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.errors import UserError
from search.backend import timeout
from search.backend.searcher import RETRIES, End, FrontierSearcher
from search.storage.ledger import Ledger
from search.study.study import Study
from search.study.width_space import WidthSpace
from search.trial.trial import FATAL
from tests.search.spaces import network


def make_searcher(folder: Path) -> FrontierSearcher:
    graph, cost, lat = network("digits")
    study = Study(WidthSpace(graph, cost, lat), Ledger(folder), cost, lat)
    return FrontierSearcher(study, budget=5)


def test_a_fatal_report_ends_the_search_without_a_row(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    searcher.suggest("a")
    searcher.suggest("b")
    searcher.on_trial_complete(
        "a", {"status": "failed", "reason": "disk full; free some", FATAL: 1}
    )
    assert isinstance(searcher.error, UserError) and "disk full" in str(searcher.error)
    assert searcher.suggest("c") == FrontierSearcher.FINISHED
    searcher.on_trial_complete("b", {"status": "complete", "score_val": 0.5})
    assert [row.status for row in Ledger(tmp_path).rows()] == ["complete"], "b was not to blame"
    assert not searcher.study.running


def test_rows_carry_the_reasons_of_scheduler_and_watchdog(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    for name in "abcd":
        searcher.suggest(name)
        searcher.ends[name] = End(f"known of {name}")
    searcher.on_trial_complete("a", error=True)
    searcher.on_trial_complete("b", {"score_val": 0.4, "epochs": 3.0})
    searcher.on_trial_complete("c", {"score_val": 0.4, "reason": "half the batch"})
    searcher.on_trial_complete("d", {"status": "failed", "reason": "ValueError"})
    rows = Ledger(tmp_path).rows()
    assert [(row.status, row.reason) for row in rows] == [
        ("failed", "known of a"),
        ("stopped", "known of b"),
        ("stopped", "half the batch; known of c"),
        ("failed", "ValueError"),
    ]
    assert (rows[1].score_val, rows[1].epochs) == (0.4, 3.0), "partial values are kept"


def test_a_trial_whose_worker_dies_comes_again_and_not_for_ever(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    first = searcher.suggest("try 0")
    for k in range(RETRIES):
        searcher.ends[f"try {k}"] = End("it died", retry=True)
        searcher.on_trial_complete(f"try {k}", error=True)
        searcher.on_trial_complete(f"try {k}", error=True)  # Tune may tell of one death twice
        assert not Ledger(tmp_path).rows()
        assert searcher.suggest(f"try {k + 1}") == first, "before anything new"
    searcher.ends[f"try {RETRIES}"] = End("it died", retry=True)
    searcher.on_trial_complete(f"try {RETRIES}", error=True)
    assert searcher.suggest("next") != first
    (row,) = Ledger(tmp_path).rows()
    assert (row.trial_id, row.status, row.reason) == (first["trial_id"], "failed", "it died")


def test_the_watchdog_kills_what_is_late_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    now = [0.0]
    monkeypatch.setattr(timeout.ray, "kill", killed.append)
    monkeypatch.setattr(timeout.time, "monotonic", lambda: now[0])
    ends: dict[str, End] = {}
    watch = timeout.Watchdog(10.0, ends, "too long")
    trials: list[Any] = [
        SimpleNamespace(
            trial_id=name,
            temporary_state=SimpleNamespace(ray_actor=f"actor {name}"),
        )
        for name in ("late", "done", "failed", "retried", "young")
    ]
    _, done, failed, retried, young = trials
    for one in trials[:4]:
        watch.on_trial_start(0, trials, one)
    watch.on_trial_complete(0, trials, done)
    watch.on_trial_error(0, trials, failed)
    watch.on_trial_recover(0, trials, retried)
    now[0] = 9.0
    watch.on_trial_start(0, trials, young)
    watch.on_trial_start(0, trials, retried)
    watch.on_step_end(0, trials)
    assert not killed
    now[0] = 10.5
    watch.on_step_end(0, trials)
    watch.on_step_end(0, trials)
    assert killed == ["actor late"] and ends == {"late": End("too long", retry=False)}
