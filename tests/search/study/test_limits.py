"""What limits leave is found: nothing outside them is proposed, and the search goes to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.methods import Problem
from search.config.schema import SearchConfig
from search.pareto.strata import Strata
from search.storage.ledger import Ledger
from search.storage.row import Outcome
from search.study import limits as limiting
from search.study import spaces, warm_start
from search.study.candidate import StudyOptions
from search.study.study import Study
from tests.search.spaces import accuracy, network


def stairs(widths: np.ndarray) -> Any:
    """ms of a device with 4 lanes: channels go four at a time, and a call has its price."""
    return 0.2 + 0.01 * (np.ceil(widths / 4) ** 2).sum(-1)


def make(tmp_path: Path, **settings: Any) -> Study:
    """The study that a run with these settings would have, without its base model's states."""
    graph, _, lat = network("digits")
    search = replace(SearchConfig(), method="uniform", **settings)
    problem = Problem(graph, lat, search.cost, stairs)
    limits = limiting.limits(search, problem)
    low, high = limiting.shares(limits, problem.cost)
    space, low, high = spaces.make(search, problem, {"uniform": {}}, low, high, limits)
    plan = warm_start.plan(problem, {}, ["uniform"], low, high, limits) if search.seeds else []
    options = StudyOptions(seeds=plan, limits=limits, strata=Strata(low, high))
    return Study(space, Ledger(tmp_path), problem.cost, lat, options)


@pytest.mark.parametrize("proposal", ["widths", "threshold"])
@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize(
    "limits",
    [
        {"max_params": "5%"},
        {"max_params": "30%", "min_macs": "20%"},
        {"min_macs": "40%", "max_macs": "42%"},
        {"max_macs": "15%"},
        {"cost": "params", "max_macs": "15%"},
        {"cost": "params", "max_params": "30%", "min_macs": "20%"},
        {"cost": "params", "max_params": "40%", "max_macs": "40%", "min_macs": "20%"},
        {"max_latency_ms": "40%"},
        {"max_latency_ms": 1.0, "max_macs": "40%", "min_macs": "10%"},
        {"cost": "latency", "max_macs": "30%"},
        {"cost": "latency", "max_latency_ms": "60%", "max_params": "30%", "min_macs": "10%"},
    ],
    ids=str,
)
def test_finding_7_4_only_feasible_networks_are_proposed(
    limits: dict[str, str], seeded: bool, proposal: str, tmp_path: Path
) -> None:
    graph, _, _ = network("digits")
    study = make(tmp_path, seeds=seeded, proposal=proposal, **limits)
    asked = set()
    for _ in range(24):
        candidate = study.ask()
        assert candidate is not None
        assert candidate.widths is not None
        asked.add(candidate.widths)
        top1 = accuracy(graph, candidate.widths)
        study.tell(candidate.trial_id, Outcome(status="complete", score_val=top1))
    assert len(asked) == 24
    for row in study.rows:
        assert row.predicted_ms == pytest.approx(stairs(np.array(row.widths)))
    assert {row.status for row in study.rows} == {"complete"}


def test_finding_7_4_failures_do_not_end_a_search(tmp_path: Path) -> None:
    """With nothing on the frontier yet there are still networks to try."""
    study = make(tmp_path, seeds=False, max_params="5%")
    for _ in range(24):
        candidate = study.ask()
        assert candidate is not None
        study.tell(candidate.trial_id, Outcome(status="failed", reason="no luck"))
