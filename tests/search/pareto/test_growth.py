"""When a search is over, and what more trials would bring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search.pareto import Patience, front, growth, reference_point
from tests.search import runs

REFERENCE = reference_point(runs.COST.base_macs, 10)


def test_patience_by_hand():
    """Eleven trials, of which the last five add nothing: the first is what all of them repeat."""
    one, *rows = runs.make_rows(6)
    rows = [one, *rows, *(replace(one, trial_id=f"{i:05d}-x") for i in range(6, 11))]
    before = growth.volumes(rows, REFERENCE)
    assert len(before) == 11 and before[-1] == before[5] == front.hypervolume(
        front.points_of(rows), REFERENCE
    )
    assert (np.diff(before) >= 0).all()
    assert Patience(5, 0.001, REFERENCE).over(rows)
    assert Patience(5, 0.001, REFERENCE).over(rows[::-1]), "the order of the rows does not matter"
    assert not Patience(11, 0.001, REFERENCE).over(rows), "not before so many have ended"
    better = replace(one, trial_id="00011-x", macs=one.macs // 4, score_val=0.94)
    assert not Patience(5, 0.001, REFERENCE).over([*rows, better])
    assert Patience(5, 0.9, REFERENCE).over([*rows, better]), "by less than the share asked for"
    failed = [runs.failed(replace(one, trial_id=f"{i:05d}-x"), "no") for i in range(20, 30)]
    assert not Patience(5, 0.001, REFERENCE).over([*rows[:6], *failed]), "failed ones say nothing"


@pytest.mark.parametrize(("power", "size"), [(0.5, 0.3), (1.0, 0.5), (1.5, 0.2)])
def test_the_law_is_found_again(power, size):
    n = np.arange(1, 201)
    grown = 0.9 - size * n**-power
    for seen in (60, 100):
        told = growth.foretold(grown[:seen], seen)
        assert told == pytest.approx(grown[2 * seen - 1] - grown[seen - 1], rel=0.15)


def test_little_is_foretold_of_little():
    assert growth.foretold(np.linspace(0.5, 0.6, 5), 5) is None
    assert growth.outlook([], REFERENCE) is None
    said = growth.outlook(runs.make_rows(30), REFERENCE)
    assert said is not None and said.startswith("30 more trials would probably add 0.0")
