"""A study by another cost than MACs: what is proposed, ordered and counted goes by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.methods import Problem
from search.config.schema import SearchConfig
from search.pareto import CostAxis, Metric, Reference, Strata, front
from search.storage.ledger import Ledger
from search.storage.row import Outcome
from search.study import limits as limiting
from search.study import spaces, warm_start
from search.study.candidate import StudyOptions
from search.study.study import Study
from tests.search.spaces import accuracy, network

METRIC = Metric(chance=0.1)


def device(widths: np.ndarray) -> Any:
    """ms of a device on which only the last groups take time: nothing like MACs."""
    return 1.0 + widths[..., -2:].sum(-1) / 10.0


@pytest.fixture(params=["ehvi", "tpe"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Study:
    """Thirty trials on a made-up surface, seeds first."""
    graph, _, lat = network("digits")
    problem = Problem(graph, lat, "latency", device)
    search = replace(SearchConfig(), cost="latency", method="uniform", sampler=request.param)
    bounds = limiting.limits(search, problem)
    low, high = limiting.shares(bounds, problem.cost)
    space, low, high = spaces.make(search, problem, {"uniform": {}}, low, high, bounds)
    seeds = warm_start.plan(problem, {}, ["uniform"], low, high, bounds)
    options = StudyOptions(
        sampler=request.param, seeds=seeds, strata=Strata(low, high), metric=METRIC, limits=bounds
    )
    found = Study(space, Ledger(tmp_path), problem.cost, lat, options)
    for _ in range(30):
        candidate = found.ask()
        assert candidate is not None and candidate.widths is not None
        assert device(np.array(candidate.widths)) <= candidate.asked + 1e-9
        score = accuracy(graph, candidate.widths)
        found.tell(candidate.trial_id, Outcome(status="complete", score_val=score))
    return found


def test_rows_say_what_they_are_foretold_to_take(study: Study) -> None:
    for row in study.rows:
        assert row.predicted_ms == pytest.approx(device(np.array(row.widths)))
    base = max(study.rows, key=lambda row: row.macs)
    assert study.axis.share(base) == 1 and study.axis == CostAxis("latency", base.predicted_ms)


def test_the_frontier_and_its_volume_are_in_milliseconds(study: Study) -> None:
    reference = Reference.of(study.axis, METRIC, 0.95)
    points = reference.points(study.rows)
    on = front.front(points)
    kept = [study.rows[i] for i in on]
    for row in kept:  # none is as fast and better
        better = [r for r in study.rows if (r.score_val or 0) > (row.score_val or 0)]
        assert all((r.predicted_ms or 0) > (row.predicted_ms or 0) for r in better)
    volume, before = 0.0, 0.0
    for row in kept:  # rectangles of a staircase, by hand
        gain = ((row.score_val or 0) - 0.1) / 0.9
        width = 1 - (row.predicted_ms or 0) / study.axis.base
        volume, before = volume + (gain - before) * width, gain
    assert front.hypervolume(points, reference) == pytest.approx(volume)
    by_macs = front.front(front.points_of(study.rows, METRIC))
    assert set(on) != set(by_macs), "MACs would have kept others"


def test_the_range_of_times_is_covered(study: Study) -> None:
    strata = study.options.strata
    assert strata is not None
    shares = [study.axis.share(row) for row in study.rows]
    assert strata.hit(shares) >= 8
    assert strata.low == pytest.approx(device(study.lat.low) / device(study.lat.high))
