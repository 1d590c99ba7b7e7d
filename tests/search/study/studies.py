"""Studies of made-up accuracies, run without networks, and the check that one is its ledger."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from optuna.trial import TrialState

from pruning.graph.widths import fit, uniform
from search.storage.ledger import Ledger
from search.storage.row import Outcome
from search.study.candidate import Candidate, Seed, StudyOptions
from search.study.study import Study
from search.study.width_space import WidthSpace
from tests.search.spaces import accuracy, network

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
