#!/usr/bin/env python3
"""Controller time of a proposal and its result at 1,000 trials, with few and many parameters."""

from __future__ import annotations

import logging
import tempfile
import time

import numpy as np
from benchmark import emit

from pruning.graph.cost import Cost
from pruning.graph.tracing import trace
from pruning.graph.widths import lattice
from pruning.models import registry
from search.pareto.strata import Strata
from search.storage import Outcome
from search.storage.ledger import Ledger
from search.study.candidate import StudyOptions
from search.study.study import Study
from search.study.width_space import WidthSpace


def controller(trials: int = 1000, timed: int = 60) -> None:
    """CPU time of a proposal and its result at 1,000 trials of a network with 57 groups."""
    graph = trace(registry.resolve("resnet110"), (3, 32, 32))
    cost, lat = Cost(graph), lattice(graph, None, 0.1)
    for offsets in ("auto", "group"):
        space = WidthSpace(graph, cost, lat, low=1e-6, offsets=offsets)
        strata = Strata(space.low, space.high)
        with tempfile.TemporaryDirectory() as folder:
            study = Study(space, Ledger(folder), cost, lat, StudyOptions(sampler="random"))
            _fill(study, trials)
            study = Study(space, Ledger(folder), cost, lat, StudyOptions(strata=strata))
            times = _fill(study, trials + timed)
        ms = 1e3 * np.array(times)
        emit(
            "controller",
            groups=len(graph.groups),
            parameters=len(space.distributions()),
            trials=trials,
            cpu_ms_median=float(np.median(ms)),
            cpu_ms_mean=float(ms.mean()),
            cpu_ms_95=float(np.quantile(ms, 0.95)),
        )


def _fill(study: Study, trials: int) -> list[float]:
    times = []
    while study.finished < trials:
        began = time.process_time()
        candidate = study.ask()
        assert candidate is not None and candidate.widths is not None
        top1 = float(1 - 0.5 / (1 + np.mean(candidate.widths) / 10))
        study.tell(candidate.trial_id, Outcome(status="complete", score_val=top1, epochs=1))
        times.append(time.process_time() - began)
    return times


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    controller()
