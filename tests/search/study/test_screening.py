"""Which trials are fine-tuned, by what their scores before that promise."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from search.pareto import front
from search.pareto.strata import Strata
from search.storage.row import Row, Status
from search.study.stopping.screening import FEWEST, Screening

MACS = 1_000_000
REFERENCE = front.Reference(MACS, 0.1)
STRATA = Strata(0.0, 0.4, bins=2)  # below and above 10 % of the MACs


def row(name: str, share: float, early: float, top1: float, status: Status = "complete") -> Row:
    return Row(
        trial_id=name,
        arch_hash=name,
        method="uniform",
        proposal={},
        widths=(),
        macs=round(share * MACS),
        params=0,
        score_repaired=early,
        score_val=top1,
        epochs=1.0 if status == "complete" else 0.0,
        status=status,
    )


def make(factor: float = 2, rows: list[Row] | None = None) -> Screening:
    screening = Screening(factor, STRATA, REFERENCE)
    screening.learn(rows or [])
    return screening


def ended(lift: Callable[[float, float], float] = lambda share, early: early) -> list[Row]:
    """A frontier with a gap between 30 and 80 % of the MACs."""
    points = [(0.12, 0.5), (0.2, 0.6), (0.25, 0.66), (0.3, 0.7), (0.8, 0.9), (0.9, 0.91)]
    return [row(f"r{i}", s, t, lift(s, t)) for i, (s, t) in enumerate(points)]


def test_what_fills_a_gap_goes_on_and_what_is_better_in_a_crowd_does_not() -> None:
    rows = ended()
    screening = make(rows=rows)
    assert screening.judge("gap", 500_000, 0.8, rows) is None
    reason = screening.judge("crowd", 880_000, 0.906, rows)
    assert reason and re.search(
        r"90\.6.% before fine-tuning at 88% of the MACs promises 90", reason
    )
    assert "of 8 by what it adds to the frontier; one of 2 goes on" in reason
    assert screening.judge("dominated", 600_000, 0.3, rows)
    assert screening.judge("same gap", 500_000, 0.799, rows), "the first is in it, and still runs"
    rows.append(row("gap", 0.5, 0.8, 0.0, "failed"))
    assert screening.judge("again", 500_000, 0.799, rows) is None, "it failed: the gap is open"


def test_the_first_and_the_lonely_go_on() -> None:
    rows = ended()
    few = make(rows=rows[: FEWEST - 1])
    assert few.judge("dominated", 600_000, 0.2, rows[: FEWEST - 1]) is None
    screening = make(5, rows)
    assert screening.judge("dominated", 600_000, 0.2, rows)
    assert screening.judge("cheap", 50_000, 0.1, rows) is None, "nothing else is below 10 %"
    assert screening.judge("as cheap", 55_000, 0.1, rows), "the first of them still runs"


def test_a_trial_is_judged_once_and_nan_is_left_to_fail() -> None:
    rows = ended()
    screening = make(rows=rows)
    assert screening.judge("bad", 600_000, 0.2, rows)
    assert screening.judge("bad", 600_000, 0.2, rows) is None, "began anew"
    assert screening.judge("nan", 600_000, float("nan"), rows) is None


@pytest.mark.parametrize("seed", range(3))
def test_the_end_is_foretold_from_the_early_score_and_macs(seed: int) -> None:
    """Where fine-tuning brings back much of what small networks lost."""

    def end(share: float, early: float) -> float:
        odds = np.log(early / (1 - early)) + 1.0 - 0.5 * np.log(share)
        return float(1 / (1 + np.exp(-odds)))

    rng = np.random.default_rng(seed)
    shares, scores = rng.uniform(0.1, 0.9, 30), rng.uniform(0.2, 0.8, 30)
    rows = [
        row(f"r{i}", s, t, end(s, t)) for i, (s, t) in enumerate(zip(shares, scores, strict=True))
    ]
    screening = make(rows=rows)
    trained = {r.trial_id: r.score_val or 0.0 for r in rows[:20]}
    foretold = screening._foretell(trained, [r.trial_id for r in rows[20:]])
    found = np.array([end for _, end in foretold.values()])
    assert np.abs(found - [r.score_val for r in rows[20:]]).max() < 0.02
    assert np.abs(found - scores[20:]).max() > 0.2, "the early score itself is far from it"


def test_what_goes_on_is_a_share_and_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    strata = Strata(0.02, 1.0, bins=8)
    screening = Screening(4, strata, REFERENCE)
    rows: list[Row] = []
    for i in range(200):
        share = float(np.exp(rng.uniform(np.log(0.02), 0)))
        top1 = 0.9 - 0.4 * (1 - share) ** 4 - 0.1 * rng.random()
        reason = screening.judge(str(i), round(share * MACS), top1 - 0.1, rows)
        rows.append(row(str(i), share, top1 - 0.1, top1, "stopped" if reason else "complete"))
    whole = [r for r in rows if r.status == "complete"]
    assert 0.15 < len(whole) / 200 < 0.4
    shares = [r.macs / MACS for r in whole]
    assert (strata.counts(shares) > 0).all()
    chance = [
        front.hypervolume(front.points_of(rng.permutation(np.array(rows))[: len(whole)]), REFERENCE)
        for _ in range(20)
    ]
    assert front.hypervolume(front.points_of(whole), REFERENCE) > max(chance)


def test_a_resumed_search_goes_on_as_it_would_have() -> None:
    rng = np.random.default_rng(0)
    rows = ended()
    here = make(3, rows)
    for i in range(20):
        share, top1 = float(rng.uniform(0.1, 1)), float(rng.uniform(0.3, 0.9))
        reason = here.judge(f"n{i}", round(share * MACS), top1, rows)
        rows.append(row(f"n{i}", share, top1, top1, "stopped" if reason else "complete"))
    there = make(3, rows)
    for i in range(20):
        macs, top1 = int(rng.integers(100_000, MACS)), float(rng.uniform(0.3, 0.9))
        assert here.judge(f"m{i}", macs, top1, rows) == there.judge(f"m{i}", macs, top1, rows)
