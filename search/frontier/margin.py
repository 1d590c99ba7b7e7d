"""How far apart two scores must be to differ: the seeds they are means of, and the test samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search.pareto import Metric

ERRORS = 2.0  # standard errors: about nineteen times of twenty chance gives less


def margin(a: Mapping[str, Any], b: Mapping[str, Any], metric: Metric, samples: int) -> float:
    """Least difference of two test means that is no chance, in the metric's values.

    a, b: rows with score_test_mean, and score_test_std and seeds where there were several.
    samples: of the test split, where the metric is a share of them that are right; 0 where it is
    no such share, and only the seeds are known. The samples are taken as drawn for each row anew;
    they are the same ones, so the margin is a cautious one.
    """
    return ERRORS * math.sqrt(_variance(a, metric, samples) + _variance(b, metric, samples))


def _variance(row: Mapping[str, Any], metric: Metric, samples: int) -> float:
    """Of the mean of a row. More seeds make it smaller, but each is tested on the same samples."""
    spread = row.get("score_test_std") or 0.0
    of_seeds = spread**2 / max(int(row.get("seeds") or 1), 1)
    if not samples or not metric.fraction:
        return float(of_seeds)
    share = min(max(row["score_test_mean"], 0.0), 1.0)
    return float(of_seeds + share * (1 - share) / samples)
