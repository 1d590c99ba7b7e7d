"""Which of the sampler's parameters decide how good a trial is for its cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.deploy import distributions
from search.pareto import MACS, TOP1, CostAxis, Metric, front
from search.storage import Row

FEWEST = 24  # below this the estimate is noise
MOST = 400


def importance(
    rows: Sequence[Row], metric: Metric = TOP1, axis: CostAxis = MACS
) -> dict[str, float]:
    """Share of the importance per parameter, by PED-ANOVA on the score above that of its cost.

    {} where there are fewer than `FEWEST` complete trials or nothing varies. Of many trials the
    latest `MOST` count. Watanabe et al., PED-ANOVA (2023).
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    done = [r for r in rows if r.status == "complete" and r.score_val is not None][-MOST:]
    done = [row for row in done if row.proposal.get("params")]
    if len(done) < FEWEST:
        return {}
    ranges = distributions([row.proposal["params"] for row in done])
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize")
        for row, value in zip(done, surplus(done, metric, axis), strict=True):
            params = {name: v for name, v in row.proposal["params"].items() if name in ranges}
            kinds = {name: ranges[name] for name in params}
            study.add_trial(create_trial(params=params, distributions=kinds, value=float(value)))
        # a quarter, not a tenth: it takes some trials to see a distribution
        evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
        found = get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return dict(found)


def surplus(rows: Sequence[Row], metric: Metric = TOP1, axis: CostAxis = MACS) -> np.ndarray:
    """Gain above the rising curve that fits all trials best, float [N]."""
    from sklearn.isotonic import IsotonicRegression

    costs, gain = front.points_of(rows, metric, axis).T
    logs = np.log(np.maximum(costs, 1e-12))
    return np.asarray(gain - IsotonicRegression().fit_transform(logs, gain))
