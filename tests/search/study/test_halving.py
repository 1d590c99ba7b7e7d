"""Which trials go on at a rung: no part of the MAC range is starved."""

from __future__ import annotations

import numpy as np
import pytest

from search.pareto import CostAxis, front
from search.pareto.strata import Strata
from search.storage.row import Row
from search.study.stopping.halving import Halving, rungs

STRATA = Strata(0.0, 0.4, bins=2)  # below and above 10 % of the MACs


@pytest.mark.parametrize(
    ("epochs", "options", "levels"),
    [
        (10, {}, [1, 3]),
        (40, {}, [1, 4, 13]),
        (9, {"factor": 2.0}, [1, 2, 4]),
        (2, {}, [1]),
        (1, {}, []),
        (0.5, {}, []),
        (10, {"factor": 1.0}, []),
    ],
)
def test_rungs_are_geometric_and_before_the_end(epochs, options, levels):
    assert list(rungs(epochs, **options)) == levels


def test_places_by_hand():
    """In the upper stratum: the first goes on, the second is better, the third dominated."""
    halving = Halving([1], STRATA, 2)
    assert halving.judge("first", 1, 0.5, 0.6) is None
    assert halving.judge("better", 1, 0.4, 0.7) is None
    assert "rank 3 of 3" in (halving.judge("dominated", 1, 0.6, 0.5) or "")
    # alone among the cheap ones, whatever it scores
    assert halving.judge("cheap", 1, 0.02, 0.1) is None
    # second of two cheap ones: not dominated, and at an end of the front, but so is the first
    assert halving.judge("cheaper", 1, 0.015, 0.05) is None
    assert halving.judge("worse", 1, 0.018, 0.04)


def test_no_part_of_the_range_stays_empty() -> None:
    """The best so far of a part that is to be covered goes on, though all its peers are better."""
    halving = Halving([1], Strata(0.01, 1.0, bins=1), 3, cover=Strata(0.01, 1.0, bins=2))
    for number, share in enumerate((0.1, 0.2, 0.25)):
        halving.judge(f"cheap {number}", 1, share, 0.8 + share / 2)
    assert halving.judge("alone above 30 %", 1, 0.9, 0.1) is None
    assert halving.judge("worse", 1, 0.95, 0.05)
    assert halving.judge("better than the lonely one", 1, 0.85, 0.2) is None
    assert halving.judge("among the cheap", 1, 0.22, 0.5)


def test_a_rung_is_decided_once_and_the_highest_one_reached_counts():
    halving = Halving([1, 2, 4], STRATA, 2)
    assert halving.judge("a", 1, 0.5, 0.5) is None
    assert halving.judge("b", 1, 0.5, 0.1)
    assert halving.judge("b", 1, 0.5, 0.1) is None, "began anew: not judged twice"
    assert halving.judge("a", 3, 0.5, 0.6) is None
    assert halving.judge("c", 5, 0.5, 0.6) is None, "alone at the third rung"
    assert halving.judge("d", 5, 0.5, 0.1)
    assert halving.judge("e", 1.5, 0.5, float("nan")) is None, "it will end as a failure"


def test_neither_end_nor_any_stratum_is_starved():
    """Accuracy rises with MACs: what ASHA on accuracy alone does away with must go on here."""
    rng = np.random.default_rng(0)
    strata = Strata(0.02, 1.0, bins=8)
    halving = Halving([1], strata)
    on, all_ = [], []
    for i in range(400):
        share = float(np.exp(rng.uniform(np.log(0.02), 0)))
        top1 = 0.9 - 0.4 * (1 - share) ** 4 - 0.1 * rng.random()
        all_.append((share, top1))
        if halving.judge(str(i), 1, share, top1) is None:
            on.append((share, top1))
    assert 0.25 < len(on) / 400 < 0.45
    assert (strata.counts([s for s, _ in on]) > 0).all()
    shares = strata.counts([s for s, _ in on]) / strata.counts([s for s, _ in all_])
    assert (shares < 0.6).all() and (shares > 0.15).all()
    reference = front.Reference(1, 0.1)
    lost = 1 - front.hypervolume(on, reference) / front.hypervolume(all_, reference)
    assert lost < 0.01
    mean = [np.mean([t + 0.4 * (1 - s) ** 4 for s, t in group]) for group in (on, all_)]
    assert mean[0] > mean[1] + 0.02, "those that go on are the better ones"


def test_rows_of_another_kind_are_compared_with_none():
    halving = Halving(rungs(10), STRATA)
    common = {"arch_hash": "x", "method": "uniform", "proposal": {}, "widths": (), "params": 1}
    rows = [
        Row(trial_id="0-a", macs=50, status="complete", score_repaired=0.9, **common),  # base
        Row(trial_id="1-a", macs=50, status="failed", score_repaired=0.5, **common),
        Row(trial_id="2-a", macs=50, status="stopped", **common),
    ]
    halving.learn(rows, CostAxis("macs", 100))
    assert halving._scores[0] == {}


def test_earlier_sessions_fill_every_rung():
    """What reports said is in the rows: judged again, a trial has its place already."""
    before, after = Halving(rungs(9), STRATA), Halving(rungs(9), STRATA)
    common = {"arch_hash": "x", "method": "uniform", "proposal": {}, "widths": (), "params": 1}
    rng, rows = np.random.default_rng(0), []
    for number in range(30):
        macs, curve = int(rng.integers(5, 100)), rng.random(10)
        reported = []
        for epochs, top1 in enumerate(curve[:9]):
            reported.append(float(top1))
            if before.judge(f"{number}-a", float(epochs), macs / 100, float(top1)):
                status = "stopped"
                break
        else:
            reported, status = curve.tolist(), "complete"
        first, *rest = reported
        rows.append(
            Row(
                trial_id=f"{number}-a",
                macs=macs,
                status=status,
                score_repaired=first,
                curve=tuple(rest),
                epochs=float(len(rest)),
                **common,
            )
        )
    after.learn(rows, CostAxis("macs", 100))
    assert after._scores == before._scores
    assert all(before._scores), "every rung was reached"
