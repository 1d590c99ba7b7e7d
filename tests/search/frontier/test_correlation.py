from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from search.frontier.correlation import STRATUM, early_and_late, remarks
from search.pareto import CostAxis
from search.storage.row import Row


def rows(early, late, macs=None, **columns) -> list[Row]:
    macs = macs if macs is not None else range(len(early))
    return [
        Row(
            trial_id=f"{i}-a",
            arch_hash=str(i),
            method="uniform",
            proposal={},
            widths=(1,),
            macs=int(m),
            params=1,
            score_repaired=e,
            score_val=v,
            **({"status": "complete", "epochs": 1.0} | columns),
        )
        for i, (e, v, m) in enumerate(zip(early, late, macs, strict=True))
    ]


def test_within_one_stratum_it_is_scipy_s():
    rng = np.random.default_rng(0)
    early = rng.random(STRATUM)
    late = early + 0.3 * rng.random(STRATUM)
    found = early_and_late(rows(early.tolist(), late.tolist()))
    assert found.trials == STRATUM
    assert found.spearman == pytest.approx(stats.spearmanr(early, late).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(early, late).statistic)


def test_macs_alone_make_no_correlation():
    """Both rise with the MACs, and are unrelated otherwise: overall 0.99, within strata about 0."""
    rng = np.random.default_rng(1)
    macs = np.arange(800)
    trend = macs // STRATUM * STRATUM / 800
    early, late = (trend + 0.001 * rng.random(800) for _ in range(2))
    assert stats.spearmanr(early, late).statistic > 0.99
    found = early_and_late(rows(early.tolist(), late.tolist(), macs))
    assert abs(found.spearman) < 0.15 and abs(found.kendall) < 0.15


def test_only_complete_trained_rows_with_both_numbers_count():
    values = [0.1, 0.2, 0.3, 0.4]
    assert early_and_late(rows(values, values)).spearman == pytest.approx(1)
    assert early_and_late(rows(values, values[::-1])).kendall == pytest.approx(-1)
    for columns in ({"status": "stopped"}, {"status": "failed"}, {"epochs": 0.0}):
        assert early_and_late(rows(values, values, **columns)) is None
    assert early_and_late(rows(values[:3], values[:3])) is None
    assert early_and_late(rows(values, [None, 0.2, 0.3, 0.4])) is None
    assert early_and_late(rows([0.1] * 4, values)) is None, "no order at chance"


def test_fine_tuning_that_costs_the_widest_accuracy_is_remarked():
    late = [0.5, 0.59, 0.7, 0.69, 0.79, 0.88]
    found = list(remarks(rows([0.4, 0.6, 0.6, 0.7, 0.8, 0.9], late), CostAxis("macs", 6)))
    assert found[0].startswith("the score before training orders trials")
    assert "in all 3 trials from 50% of the MACs up: lower finetune.lr" in found[1]


@pytest.mark.parametrize("late", [[0.5, 0.4, 0.69, 0.85], [0.3, 0.5, 0.79, 0.82], [0.5] * 4])
def test_losses_here_and_there_are_no_remark(late):
    assert len(list(remarks(rows([0.4, 0.5, 0.7, 0.8], late), CostAxis("macs", 8)))) <= 1


def test_nothing_is_remarked_without_trained_trials():
    assert not list(remarks(rows([0.4] * 5, [0.4] * 5, epochs=0.0), CostAxis("macs", 8)))
