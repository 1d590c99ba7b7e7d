"""One-shot pruning beside the frontier: what the search gained, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pruning import methods
from search.backend import Member, TrialResources
from search.config import Config
from search.frontier import pictures
from search.frontier.margin import margin
from search.frontier.points import to_csv
from search.pareto import MACS, TOP1, CostAxis, Metric
from search.storage import Row, arch_hash, files, table_schema
from search.study import predicted
from search.trial import BaseModel, Job, final_training

Point = Mapping[str, Any]
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("method", pa.string(), "one-shot"),
    ("faithfulness", pa.string(), ""),
    ("asked_share", pa.float64(), "share of the base model's cost asked for"),
    ("widths", pa.list_(pa.int32()), "channels per group"),
    ("macs", pa.int64(), "multiply-accumulates for one image"),
    ("macs_share", pa.float64(), "share of the base model's MACs"),
    ("params", pa.int64(), "parameters"),
    ("predicted_ms", pa.float64(), "milliseconds for a batch, foretold; null where none are"),
    ("score_val_mean", pa.float64(), "fraction, over seeds"),
    ("score_test_mean", pa.float64(), "fraction, over seeds"),
    ("score_test_std", pa.float64(), "fraction, over seeds; null for one seed"),
    ("seeds", pa.int32(), "trainings"),
    ("epochs", pa.float64(), "epochs of each of them"),
    ("frontier_rank", pa.int32(), "the frontier's best point that costs no more"),
    ("score_gap", pa.float64(), "fraction, by which that point's test mean is better"),
    ("cost_gap", pa.float64(), "share of the base's cost that the frontier saves at this score"),
    ("margin", pa.float64(), "fraction; a smaller gap may be chance: seeds and test samples"),
    ("verdict", pa.string(), "who dominates whom, by test means that differ beyond the margin"),
    ("prepare_s", pa.float64(), "seconds to measure the base model for the method"),
    ("allocate_s", pa.float64(), "seconds to allocate the widths"),
    ("train_s", pa.float64(), "seconds of one training, mean over seeds"),
)


@dataclass(frozen=True)
class OneShot:
    """A method's own allocation for a budget: what is trained, and seconds to get there."""

    row: Row
    asked: float
    prepare_s: float
    allocate_s: float


def plan(config: Config, base: BaseModel, shares: Sequence[float]) -> list[OneShot]:
    """Each measured method at each share of what the base model costs."""
    problem = base.problem(config.search)
    found = []
    for name, state in base.states.items():
        for share in shares:
            began = time.perf_counter()
            widths = methods.get(name).allocate(state, problem, problem.cost.budget(share))
            spent = time.perf_counter() - began
            vector = tuple(int(w) for w in widths)
            digest = arch_hash(name, vector, config.finetune.told() | {"oneshot": True})
            row = Row(
                trial_id=f"oneshot-{name}-{100 * share:.0f}-{digest[:8]}",
                arch_hash=digest,
                method=name,
                proposal={"kind": "one-shot", "asked": problem.cost.budget(share)},
                widths=vector,
                macs=problem.cost.macs(widths),
                params=problem.cost.params(widths),
                predicted_ms=predicted(problem.cost, widths),
                status="complete",
            )
            found.append(OneShot(row, share, base.measured_s.get(name, 0.0), spent))
    return found


def compare(
    config: Config,
    base: BaseModel,
    shares: Sequence[float],
    seeds: int,
    points: Sequence[Point],
    share: TrialResources,
    say: Callable[[str], None],
) -> pa.Table:
    """Train the one-shots as the frontier's members were, and set them beside the frontier.

    Writes comparison.parquet, .csv and .png into the run; a training that is there is not repeated.
    """
    shots = plan(config, base, shares)
    jobs = [Job(shot.row, k) for shot in shots for k in range(seeds)]
    todo = [job for job in jobs if final_training.stored(config, *job) is None]
    if todo:
        from search.backend import retrain  # and Ray Tune, which takes a second to import

        say(f"{len(shots)} one-shot networks: {len(todo)} trainings")
        retrain.train_all(config, base, [todo], share, say)
    records, axis = [], base.axis(config.search)
    for shot in shots:
        found = [final_training.stored(config, shot.row, k) for k in range(seeds)]
        done = tuple(training for training in found if training is not None)
        if done:
            records.append(_record(shot, Member(shot.row, done, base.metric), points, base, axis))
    table = pa.Table.from_pylist(records, schema=table_schema(COLUMNS, base.metric))
    run, sink = files.open_uri(config.out), pa.BufferOutputStream()
    pq.write_table(table, sink)
    files.write(run / "comparison.parquet", sink.getvalue().to_pybytes())
    files.write(run / "comparison.csv", to_csv(table))
    files.write(run / "comparison.png", picture(table, points, base.metric, axis))
    return table


def _record(
    shot: OneShot, member: Member, points: Sequence[Point], base: BaseModel, axis: CostAxis
) -> dict[str, Any]:
    row = shot.row
    test = [training.test for training in member.trainings if training.test is not None]
    whole = max(int(point["macs"]) for point in points) if points else row.macs
    base_macs = round(whole / max(p["macs_share"] for p in points)) if points else row.macs
    found = {
        "method": row.method,
        "faithfulness": methods.get(row.method).faithfulness,
        "asked_share": shot.asked,
        "widths": list(row.widths),
        "macs": row.macs,
        "macs_share": row.macs / base_macs,
        "params": row.params,
        "predicted_ms": row.predicted_ms,
        "score_val_mean": member.val_mean,
        "score_test_mean": float(np.mean(test)),
        "score_test_std": float(np.std(test, ddof=1)) if len(test) > 1 else None,
        "seeds": len(member.trainings),
        "epochs": member.trainings[0].epochs,
        "prepare_s": shot.prepare_s,
        "allocate_s": shot.allocate_s,
        "train_s": float(np.mean([training.seconds for training in member.trainings])),
    }
    return found | beside(found, points, axis, base.metric, base.tested)


def beside(
    shot: Point, points: Sequence[Point], axis: CostAxis, metric: Metric = TOP1, samples: int = 0
) -> dict[str, Any]:
    """Gaps between one network and the frontier's real points; nothing is interpolated.

    Positive gaps favour the frontier. None where no point costs as little, or is as good. Who
    dominates costs no more and has a better score, beyond the margin of seeds and test `samples`.
    """

    def ahead(a: Point, b: Point, by_chance: bool) -> bool:
        """Whether a costs no more than b and is better."""
        least = 0.0 if by_chance else margin(a, b, metric, samples)
        return axis.of(a) <= axis.of(b) and gain(a) - gain(b) > least

    def gain(point: Point) -> float:
        return metric.gain(point["score_test_mean"])

    own, cost = gain(shot), axis.of(shot)
    cheaper = [point for point in points if axis.of(point) <= cost]
    best = max(cheaper, key=gain, default=None)
    as_good = [point for point in points if gain(point) >= own]
    least = min((axis.of(point) for point in as_good), default=None)
    beaten = sum(ahead(shot, point, False) for point in points)
    verdicts = ["dominated by the frontier"] * any(ahead(p, shot, False) for p in points)
    verdicts += [f"dominates {beaten} of the frontier's points"] * bool(beaten)
    if not verdicts and any(ahead(p, shot, True) or ahead(shot, p, True) for p in points):
        verdicts = ["the same within the margin"]
    return {
        "frontier_rank": None if best is None else best["rank"],
        "score_gap": None if best is None else gain(best) - own,
        "cost_gap": None if least is None else (cost - least) / axis.base,
        "margin": None if best is None else margin(shot, best, metric, samples),
        "verdict": ", ".join(verdicts) or "neither dominates",
    }


def picture(
    table: pa.Table, points: Sequence[Point], metric: Metric = TOP1, axis: CostAxis = MACS
) -> bytes:
    """PNG of the frontier and the one-shots, scores on test with error bars."""
    figure, axes = pictures.empty()
    rows = table.to_pylist()
    scale, unit = axis.scaled([axis.of(point) for point in points])
    series = {"frontier of the search": list(points)}
    for row in rows:
        series.setdefault(f"{row['method']} one-shot", []).append(row)
    for i, (name, members) in enumerate(series.items()):
        members = sorted(members, key=axis.of)
        axes.errorbar(
            [axis.of(member) / scale for member in members],
            [metric.scale * member["score_test_mean"] for member in members],
            yerr=[metric.scale * (member["score_test_std"] or 0.0) for member in members],
            fmt="o-" if i == 0 else "s--",
            ms=4,
            lw=1.2 if i == 0 else 0.8,
            capsize=2,
            label=name,
        )
    if metric.fraction and metric.rises:
        lowest = min((100 * row["score_test_mean"] for row in rows), default=0.0)
        axes.set_ylim(bottom=max(0.0, lowest - 5))
    axes.set(xlabel=f"{axis.title} [{unit}]", ylabel=f"test {metric.axis}")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if metric.rises else "upper right", fontsize=8)
    return pictures.png(figure)
