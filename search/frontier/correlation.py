"""What is foretold beside what came: scores before training and at the end, milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from search.pareto import MACS, TOP1, CostAxis, Metric
from search.storage import Row

STRATUM = 8  # trials of about the same cost that are compared with each other
LOSS = 0.002  # of the best score there is, that fine-tuning costs before it is worth a word ...
SEVERAL = 3  # ... in the widest so many trials, which have the least to win by it


@dataclass(frozen=True)
class Correlation:
    """Rank correlation within strata of the cost, averaged by their trials; `trials` took part."""

    spearman: float
    kendall: float
    trials: int
    word: str = MACS.word

    def __str__(self) -> str:
        return (
            f"the score before training orders trials of about the same {self.word} as that at "
            f"the end does: rank correlation {self.spearman:.2f} (Spearman; 1 is the same order, "
            f"0 none; Kendall {self.kendall:.2f}; {self.trials} trials)"
        )


@dataclass(frozen=True)
class Foretold:
    """Predicted beside measured times of whole networks: rank correlation and median error."""

    spearman: float
    median_error: float
    networks: int

    def __str__(self) -> str:
        return (
            f"predicted and measured latencies of {self.networks} networks: rank correlation "
            f"{self.spearman:.2f} (Spearman), median error {self.median_error:.1%}"
        )


def foretold(points: Iterable[Mapping[str, Any]]) -> Foretold | None:
    """Of points or rows that have both times; None for fewer than three."""
    pairs = [
        (point["predicted_ms"], point["measured_ms"])
        for point in points
        if point.get("predicted_ms") is not None and point.get("measured_ms") is not None
    ]
    if len(pairs) < 3:
        return None
    from scipy import stats

    predicted, measured = np.array(pairs, dtype=np.float64).T
    if not (np.ptp(predicted) > 0 and np.ptp(measured) > 0):
        return None
    spearman = float(stats.spearmanr(predicted, measured).statistic)
    return Foretold(spearman, float(np.median(np.abs(predicted / measured - 1))), len(pairs))


def remarks(rows: Sequence[Row], axis: CostAxis, metric: Metric = TOP1) -> Iterator[str]:
    """What the user of a run should know of it, in lines; none where nothing is to be said."""
    if (found := early_and_late(rows, axis)) is not None:
        yield str(found)
    trained = sorted(
        (axis.share(row), metric.gain(row.score_val) - metric.gain(row.score_repaired))
        for row in rows
        if row.status == "complete" and row.epochs > 0
        if row.score_repaired is not None and row.score_val is not None
    )
    scores = [abs(row.score_val) for row in rows if row.score_val is not None]
    loss = LOSS * (1.0 if metric.fraction else max(scores, default=1.0))
    worse = list(takewhile(lambda each: each[1] < -loss, reversed(trained)))
    if len(worse) >= SEVERAL:
        yield (
            f"fine-tuning made the {metric.name} worse in all {len(worse)} trials from "
            f"{worse[-1][0]:.0%} of the {axis.word} up: lower finetune.lr or raise "
            "finetune.epochs"
        )


def early_and_late(rows: Iterable[Row], axis: CostAxis = MACS) -> Correlation | None:
    """Of score_repaired and score_val over complete, trained rows; None for fewer than four.

    Over all costs it would be high whatever the early score is worth: wide networks are better at
    both. Where the early score decided who goes on it reads low: only its best are complete.
    """
    done = sorted(
        (axis.of(row), row.score_repaired, row.score_val)
        for row in rows
        if row.status == "complete" and row.epochs > 0
        if row.score_repaired is not None and row.score_val is not None
    )
    if len(done) < 4:
        return None
    from scipy import stats  # slow to import, and asked for at the end of a run only

    values = np.array(done, dtype=np.float64)
    weights, spearman, kendall = [], [], []
    for part in np.array_split(values, max(1, len(values) // STRATUM)):
        early, late = part[:, 1], part[:, 2]
        if np.ptp(early) > 0 and np.ptp(late) > 0:  # without a difference there is no order
            weights.append(len(part))
            spearman.append(float(stats.spearmanr(early, late).statistic))
            kendall.append(float(stats.kendalltau(early, late).statistic))
    if not weights:
        return None
    means = np.average([spearman, kendall], axis=1, weights=weights)
    return Correlation(float(means[0]), float(means[1]), int(np.sum(weights)), axis.word)
