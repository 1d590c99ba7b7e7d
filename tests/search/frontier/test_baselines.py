"""Who dominates whom, by hand: gaps to real points of the frontier, and the verdict."""

from __future__ import annotations

import pytest

from search.frontier.baselines import beside

POINTS = [
    {"rank": 0, "macs": 100, "score_test_mean": 0.6},
    {"rank": 1, "macs": 200, "score_test_mean": 0.7},
    {"rank": 2, "macs": 300, "score_test_mean": 0.69},  # by its mean on val it is on the frontier
]


@pytest.mark.parametrize(
    ("macs", "top1", "rank", "gap", "saved", "verdict"),
    [
        (250, 0.65, 1, 0.05, 0.05, "dominated by the frontier"),
        (150, 0.65, 0, -0.05, -0.05, "neither dominates"),
        (200, 0.75, 1, -0.05, None, "dominates 2 of the frontier's points"),
        (
            250,
            0.69,
            1,
            0.01,
            0.05,
            "dominated by the frontier, dominates 1 of the frontier's points",
        ),
        (50, 0.1, None, None, -0.05, "neither dominates"),
        (200, 0.7, 1, 0.0, 0.0, "dominates 1 of the frontier's points"),
    ],
)
def test_gaps_and_verdict(macs, top1, rank, gap, saved, verdict) -> None:
    found = beside(macs, top1, POINTS, base_macs=1000)
    assert (found["frontier_rank"], found["verdict"]) == (rank, verdict)
    assert found["score_gap"] == (None if gap is None else pytest.approx(gap))
    assert found["macs_gap"] == (None if saved is None else pytest.approx(saved))
