from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from search.backend.scheduler import FrontierScheduler, Halving, error_line, make, rungs
from search.backend.searcher import End
from search.config.schema import SearchConfig
from search.pareto import front
from search.pareto.strata import Strata
from search.storage.ledger import Ledger
from search.storage.row import Outcome, Row
from search.study.study import Study
from search.study.width_space import WidthSpace
from tests.search.spaces import accuracy, network

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
STRATA = Strata(0.0, 0.4, bins=2)  # below and above 10 % of the MACs
REFERENCE = front.Reference(network("digits")[1].base_macs, 0.1)


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


def test_rows_of_another_kind_are_compared_with_none():
    halving = Halving(rungs(10), STRATA)
    common = {"arch_hash": "x", "method": "uniform", "proposal": {}, "widths": (), "params": 1}
    rows = [
        Row(trial_id="0-a", macs=50, status="complete", score_repaired=0.9, **common),  # base
        Row(trial_id="1-a", macs=50, status="failed", score_repaired=0.5, **common),
        Row(trial_id="2-a", macs=50, status="stopped", **common),
    ]
    halving.learn(rows, 100)
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
    after.learn(rows, 100)
    assert after._scores == before._scores
    assert all(before._scores), "every rung was reached"
