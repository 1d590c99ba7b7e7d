from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from search.backend.scheduler import FrontierScheduler, error_line, make
from search.backend.searcher import End
from search.config.schema import SearchConfig
from search.pareto import front
from search.pareto.strata import Strata
from search.storage.ledger import Ledger
from search.storage.row import Outcome
from search.study.stopping.halving import Halving
from search.study.study import Study
from search.study.width_space import WidthSpace
from tests.search.spaces import accuracy, network

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
STRATA = Strata(0.0, 0.4, bins=2)  # below and above 10 % of the MACs
REFERENCE = front.Reference(network("digits")[1].base_macs, 0.1)


def tune_trial(tmp_path: Path, number: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        trial_id=f"tune{number}",
        config={"trial_id": f"{number:05d}-x"},
        error_file=None,
    )


def make_study(folder: Path) -> Study:
    graph, cost, lat = network("digits")
    return Study(WidthSpace(graph, cost, lat), Ledger(folder), cost, lat)


def test_tune_s_reports_are_judged_by_the_macs_of_their_widths(tmp_path):
    study, ends = make_study(tmp_path), {}
    scheduler = FrontierScheduler(Halving([1], STRATA, 2), None, study, ends)
    assert scheduler.metric is None, "Tune would demand a metric in every report"
    report = {"widths": study.space.graph.widths.tolist(), "epochs": 1.0, "score_val": 0.9}
    first, second, third = (tune_trial(tmp_path, i) for i in range(3))
    assert scheduler.on_trial_result(None, first, report) == CONTINUE
    assert scheduler.on_trial_result(None, second, report | {"epochs": 0.0}) == CONTINUE
    assert scheduler.on_trial_result(None, second, report | {"score_val": 0.2}) == STOP
    assert "rank 2 of 2 near 100% of the MACs" in ends["tune1"].reason
    assert scheduler.on_trial_result(None, third, report | {"status": "complete"}) == CONTINUE
    assert scheduler.on_trial_result(None, third, {"epochs": 1.0}) == CONTINUE
    narrow = report | {"widths": study.lat.low.tolist(), "score_val": 0.1}
    assert scheduler.on_trial_result(None, third, narrow) == CONTINUE


def test_each_is_one_flag(tmp_path):
    study = make_study(tmp_path)
    off = make(SearchConfig(), 10, study, REFERENCE, {})
    assert off.halving.steps == () and off.screening is None
    for epochs in (0.0, 1.0, 3.0):
        report = {"widths": study.lat.low.tolist(), "epochs": epochs, "score_val": 0.1}
        for number in range(20):
            assert off.on_trial_result(None, tune_trial(tmp_path, number), report) == CONTINUE
    halving = make(SearchConfig(early_stopping="mo-asha"), 10, study, REFERENCE, {})
    assert halving.halving.steps == (1, 3) and halving.screening is None
    screening = make(SearchConfig(screen=5), 10, study, REFERENCE, {})
    assert screening.halving.steps == () and screening.screening.factor == 5


def test_a_resumed_search_knows_what_was_reported(tmp_path):
    study = make_study(tmp_path)
    for number in range(8):
        candidate = study.ask()
        top1 = accuracy(study.space.graph, candidate.widths)
        whole = number % 2 == 0
        study.tell(
            candidate.trial_id,
            Outcome(
                status="complete" if whole else "stopped",
                widths=candidate.widths,
                score_repaired=top1 - 0.01,
                score_val=top1,
                curve=(top1,),
                epochs=1.0,
            ),
        )
    again = make_study(tmp_path)
    search = SearchConfig(early_stopping="mo-asha", screen=3)
    scheduler = make(search, 3, again, REFERENCE, {})
    known = scheduler.halving._scores[0]
    assert set(known) == {row.trial_id for row in study.rows}
    row = study.rows[0]
    assert known[row.trial_id] == (row.macs / study.cost.base_macs, row.score_val)
    for row in again.rows:  # a twin that scores less than each of them, at the same MACs
        twin = tune_trial(tmp_path, 100 + row.number)
        report = {"widths": list(row.widths), "epochs": 1.0, "score_val": 0.05}
        assert scheduler.on_trial_result(None, twin, report) == STOP
        if row.status == "complete":  # else it might be the first of its stratum
            assert scheduler.on_trial_result(None, twin, report | {"epochs": 0.0}) == STOP


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Failure # 1 (occurred at 2024)\nold\nFailure # 2 (occurred at 2024)\n"
            "The actor died unexpectedly before finishing this task.\n\tclass_name: X\n",
            "The actor died unexpectedly before finishing this task.",
        ),
        (
            "Failure # 1 (occurred at 2024)\nray::X.train() (pid=3)\n  File x\n"
            "torch.cuda.OutOfMemoryError: CUDA out of memory\n",
            "torch.cuda.OutOfMemoryError: CUDA out of memory",
        ),
        ("Failure # 1 (occurred at 2024)\n\n", "see its log"),
        (None, "see its log"),
    ],
)
def test_a_dead_worker_s_reason_is_one_line(tmp_path, text, expected):
    trial = tune_trial(tmp_path)
    if text is not None:
        trial.error_file = str(tmp_path / "error.txt")
        Path(trial.error_file).write_text(text)
    assert error_line(trial) == expected
    ends = {"tune0": End("exceeded the limit")}
    scheduler = FrontierScheduler(Halving([], STRATA), None, make_study(tmp_path), ends)
    scheduler.on_trial_error(None, trial)
    assert ends["tune0"] == End("exceeded the limit"), "what is known before is better"
    scheduler.on_trial_error(None, trial := tune_trial(tmp_path, 1))
    assert ends["tune1"] == End("the trial's worker failed: see its log", retry=True)
