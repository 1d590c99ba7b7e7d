from __future__ import annotations

import numpy as np
import pytest

from search.pareto import front

CLOUDS = [
    np.random.default_rng(seed).integers(0, high, (60, 2)).astype(float)
    for seed, high in enumerate([3, 8, 30, 1000])
]


def dominates(a, b) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and tuple(a) != tuple(b)


def brute_front(points) -> list[int]:
    kept = [
        i
        for i, p in enumerate(points)
        if not any(dominates(q, p) for q in points)
        and not any((points[j] == p).all() for j in range(i))
    ]
    return sorted(kept, key=lambda i: points[i][0])


@pytest.mark.parametrize("points", CLOUDS)
def test_front_is_the_brute_force_front_by_macs_with_the_first_of_duplicates(points):
    assert front.front(points).tolist() == brute_front(points)


@pytest.mark.parametrize("points", CLOUDS)
def test_ranks_peel_off_fronts(points):
    rank = front.ranks(points)
    level, left = 0, list(range(len(points)))
    while left:
        top = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        assert sorted(np.flatnonzero(rank == level)) == sorted(top)
        left, level = [i for i in left if i not in top], level + 1


def test_non_finite_and_infeasible_rows_are_out():
    points = np.array([[1, 0.2], [np.nan, 0.9], [0.1, np.nan], [2, 0.5], [0.5, 0.9], [-np.inf, 1]])
    feasible = [True, True, True, True, False, True]
    assert front.front(points, feasible).tolist() == [0, 3]
    assert front.ranks(points, feasible).tolist() == [0, 6, 6, 0, 6, 6]
    reference = front.Reference(4, 0.1)
    clean = front.hypervolume(points[[0, 3]], reference)
    assert front.hypervolume(points, reference, feasible) == clean > 0
    assert set(front.order(points, feasible)[:2]) == {0, 3}


def test_nothing_is_an_empty_frontier():
    reference = front.reference_point(100, 10)
    for nothing in (np.zeros((0, 2)), [[np.nan, 0.5]], []):
        assert front.front(nothing).tolist() == []
        assert front.hypervolume(nothing, reference) == 0
        assert front.knee(nothing) is None
        assert len(front.order(nothing)) == len(nothing)


def test_hypervolume_by_hand():
    reference = front.reference_point(100, 10)
    assert front.hypervolume([[50, 0.55]], reference) == pytest.approx(0.5 * 0.5)
    two = [[50, 0.55], [20, 0.28]]  # the second adds 0.3 of the MACs at a gain of 0.2
    assert front.hypervolume(two, reference) == pytest.approx(0.25 + 0.3 * 0.2)
    beyond = [*two, [100, 0.99], [150, 1.0], [1, 0.1], [1, 0.05]]
    assert front.hypervolume(beyond, reference) == pytest.approx(0.31)
    assert front.hypervolume([[0, 1.0]], reference) == pytest.approx(1.0)


def test_hypervolume_agrees_with_monte_carlo():
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(0, 120, 40), rng.uniform(0, 1, 40) ** 2])
    samples = np.column_stack([rng.uniform(0, 100, 200_000), rng.uniform(0.1, 1, 200_000)])
    hit = np.zeros(len(samples), dtype=bool)
    for macs, top1 in points:
        hit |= (samples[:, 0] >= macs) & (samples[:, 1] <= top1)
    found = front.hypervolume(points, front.reference_point(100, 10))
    assert found == pytest.approx(hit.mean(), abs=0.005)


def test_reference_can_lie_beyond_the_base():
    reference = front.reference_point(100, 10, macs=1.1)
    assert front.hypervolume([[100, 1.0]], reference) == pytest.approx(0.1 / 1.1)


def test_order_prefers_rank_and_then_room():
    x = np.array([0.1, 0.11, 0.12, 0.5, 1.0])
    points = np.column_stack([x, x])
    best = front.order(np.vstack([points, [[1.0, 0.01]]]))
    assert set(best[:2]) == {0, 4} and best[2] == 3 and best[-1] == 5


def test_crowding_by_hand():
    points = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    distance = front.crowding(points, np.zeros(4, dtype=int))
    assert distance.tolist() == [np.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf]


def test_knee_is_where_the_curve_bends():
    x = np.linspace(0.01, 1, 100)
    points = np.column_stack([x * 1e8, np.minimum(0.9, 3 * x) + 0.01 * x])
    assert points[front.knee(points), 0] == pytest.approx(0.3e8, rel=0.05)
    assert front.knee([[1, 0.1], [2, 0.2]]) is None
    assert front.knee([[1, 0.1], [2, 0.15], [3, 0.3]]) is None  # convex: no bend
