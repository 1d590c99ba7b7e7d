"""Who dominates whom, by hand: gaps to real points of the frontier, and the verdict."""

from __future__ import annotations

import numpy as np
import pytest

from search.frontier.baselines import beside
from search.frontier.margin import margin
from search.pareto import TOP1, CostAxis, Metric

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
            "dominated by the frontier",  # and as good as the last, for fewer MACs
        ),
        (50, 0.1, None, None, -0.05, "neither dominates"),
        (200, 0.7, 1, 0.0, 0.0, "dominates 1 of the frontier's points"),
    ],
)
def test_gaps_and_verdict(macs, top1, rank, gap, saved, verdict) -> None:
    found = beside({"macs": macs, "score_test_mean": top1}, POINTS, CostAxis("macs", 1000))
    assert (found["frontier_rank"], found["verdict"]) == (rank, verdict)
    assert found["score_gap"] == (None if gap is None else pytest.approx(gap))
    assert found["cost_gap"] == (None if saved is None else pytest.approx(saved))


@pytest.mark.parametrize(
    ("samples", "std", "verdict"),
    [
        (0, None, "dominated by the frontier"),
        (10_000, None, "dominated by the frontier"),  # 5 points, of which 1.3 may be chance
        (100, None, "the same within the margin"),  # of which 13 may be
        (10_000, 0.06, "the same within the margin"),
    ],
)
def test_who_dominates_does_so_beyond_seeds_and_test_images(samples, std, verdict) -> None:  # type: ignore[no-untyped-def]
    shot = {"macs": 250, "score_test_mean": 0.65, "score_test_std": std, "seeds": 3}
    points = [POINTS[1] | {"score_test_std": std, "seeds": 3}]
    assert beside(shot, points, CostAxis("macs", 1000), TOP1, samples)["verdict"] == verdict


def test_the_margin_is_two_standard_errors_of_what_chance_does() -> None:
    """Networks that are equally good, each tested on images and by seeds of its own."""
    rng = np.random.default_rng(0)
    samples, seeds, right, spread = 400, 3, 0.8, 0.02
    beyond = []
    for _ in range(4000):
        pair = []
        for _ in range(2):
            runs = rng.binomial(samples, right) / samples + spread * rng.standard_normal(seeds)
            row = {"score_test_mean": runs.mean(), "score_test_std": runs.std(ddof=1)}
            pair.append(row | {"seeds": seeds})
        gap = abs(pair[0]["score_test_mean"] - pair[1]["score_test_mean"])
        beyond.append(gap > margin(*pair, TOP1, samples))
    assert 0.03 < np.mean(beyond) < 0.075  # 4.6 % by the normal law, some more with three seeds


def test_a_metric_that_is_no_share_has_the_seeds_alone() -> None:
    row = {"score_test_mean": 28.0, "score_test_std": 0.3, "seeds": 9}
    assert margin(row, row, Metric("PSNR", "dB"), 1000) == pytest.approx(2 * np.sqrt(2) * 0.1)
