"""Who is trained to the end."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from search.pareto import front, reference_point
from search.study.ehvi import finalists as choosing
from tests.search import runs

REFERENCE = reference_point(runs.COST.base_macs, 10)


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_a_subset_is_the_best_there_is(count):
    rng = np.random.default_rng(count)
    points = np.column_stack([rng.uniform(0, 1.2, 60) * REFERENCE.cost, rng.uniform(0, 1, 60)])
    members = points[front.front(points)]
    chosen = front.subset(members, count, REFERENCE)
    volumes = [
        front.hypervolume(members[list(some)], REFERENCE)
        for some in itertools.combinations(range(len(members)), min(count, len(members)))
    ]
    assert len(set(chosen.tolist())) == min(count, len(members))
    assert front.hypervolume(members[chosen], REFERENCE) == pytest.approx(max(volumes))


def noisy_rows(count: int = 80, noise: float = 0.01):
    rng = np.random.default_rng(0)
    rows = runs.make_rows(count, methods=["uniform"])
    return rows, [replace(row, score_val=row.score_val + rng.normal(0, noise)) for row in rows]


def test_finalists_are_truly_better_than_those_chosen_by_single_trainings():
    rows, noisy = noisy_rows()
    truth = {row.trial_id: row for row in rows}

    def volume(members) -> float:
        return front.hypervolume(front.points_of([truth[m.trial_id] for m in members]), REFERENCE)

    lucky = [noisy[i] for i in front.front(front.points_of(noisy))]
    points = front.points_of(lucky)
    plain = [lucky[i] for i in front.subset(points, 8, REFERENCE)]
    chosen = choosing.finalists(noisy, 8, runs.GRAPH, runs.COST, REFERENCE)
    assert len(chosen) == 8 and volume(chosen) > volume(plain)


def test_an_unlucky_network_has_a_second_chance():
    """The best of the middle, measured three points too low: not on the frontier, a finalist."""
    rows, _ = noisy_rows(noise=0)
    members = front.front(front.points_of(rows))
    unlucky = rows[members[len(members) // 2]]
    low = replace(unlucky, score_val=unlucky.score_val - 0.03)
    rows = [low if row is unlucky else row for row in rows]
    assert rows.index(low) not in front.front(front.points_of(rows))
    assert low in choosing.finalists(rows, 40, runs.GRAPH, runs.COST, REFERENCE)


def test_few_trials_are_taken_as_measured():
    rows = runs.make_rows(6)
    chosen = choosing.finalists(rows, 0, runs.GRAPH, runs.COST, REFERENCE)
    expected = [rows[i] for i in front.front(front.points_of(rows))]
    assert chosen == expected
    assert len(choosing.finalists(rows, 2, runs.GRAPH, runs.COST, REFERENCE)) == min(
        2, len(expected)
    )
    assert choosing.finalists([], 2, runs.GRAPH, runs.COST, REFERENCE) == []
