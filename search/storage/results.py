"""What a run has left, finished or not: its record, trials, frontier and comparison, as data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.errors import UserError
from search.pareto import MACS, TOP1, CostAxis, Metric
from search.storage import checks
from search.storage import files as storage
from search.storage.ledger import Ledger
from search.storage.row import Row

Point = dict[str, Any]
FORMAT = 1  # of a run folder; columns may be added without a new one
BASE_LATENCY = b"base_latency"  # key of frontier.parquet's metadata


@dataclass(frozen=True)
class Results:
    """A run. Points are frontier rows by cost; `finished`: they are final, the run has ended.

    `comparison` has the rows of comparison.parquet. `base_latency` has the frontier's latency
    columns, for the base model; `base_widths` its channels per group.
    """

    place: str
    record: Mapping[str, Any]
    rows: Sequence[Row]
    points: Sequence[Point]
    finished: bool
    comparison: Sequence[Point]
    base_latency: Mapping[str, Any]
    base_widths: Mapping[str, int]

    @property
    def tested(self) -> bool:
        """Whether points have scores on test."""
        return any(p.get("score_test_mean") is not None for p in self.points)

    @property
    def metric(self) -> Metric:
        """What its scores are."""
        return metric_of(self.record)

    @property
    def axis(self) -> CostAxis:
        """What it saves."""
        return axis_of(self.record)

    @property
    def complete(self) -> list[Row]:
        return [row for row in self.rows if row.status == "complete" and row.score_val is not None]


def read(place: str) -> Results:
    """All of a run; UserError where there is none."""
    record = read_record(place)
    rows = Ledger(place).rows()
    points, finished = read_points(place, record, rows)
    timed = any(point.get("latency_device") for point in points)
    return Results(
        place=place,
        record=record,
        rows=rows,
        points=points,
        finished=finished,
        comparison=_comparison(place),
        base_latency=read_base_latency(place) if timed else {},
        base_widths=_base_widths(place, record, rows),
    )


def read_record(place: str) -> dict[str, Any]:
    """run.json; UserError where there is none, or none that this version reads."""
    try:
        found = find_record(storage.open_uri(place))
    except OSError:
        found = None
    if found is None:
        shown = place if place.strip() else repr(place)
        raise UserError(f"{shown} holds no run.json; name the folder of a search, its --out")
    return found


def find_record(run: storage.Location) -> dict[str, Any] | None:
    """run.json, checked; None where there is none. UserError if it is damaged or of another format.

    All that reads a run comes through here first.
    """
    file = run / "run.json"
    try:
        found = json.loads(storage.read_bytes(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged; copy the run again, or name another folder") from error
    if isinstance(found, dict):
        found = checks.renamed_record(found)
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise UserError(f"{file} is no record of a search; name another folder")
    if found.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {found.get('format')!r:.20}, this slimfront reads {FORMAT}; use "
            "the slimfront that wrote it, a newer one perhaps, or name another folder"
        )
    if wrong := checks.record_faults(found):
        raise UserError(
            f"{file} is damaged: {wrong[0]} is missing or no such value; copy the run again, or "
            "name another folder"
        )
    return found


def metric_of(record: Mapping[str, Any]) -> Metric:
    """What a run's scores are; those of runs of 0.1 are top-1."""
    found = record.get("metric")
    return TOP1 if found is None else Metric.from_json(found)


def axis_of(record: Mapping[str, Any]) -> CostAxis:
    """What a run saves; runs of 0.1 saved MACs."""
    found = record.get("objective")
    if found is None:
        return CostAxis("macs", float(record.get("base_macs") or 0))
    return CostAxis.from_json(found)


def read_points(
    place: str, record: Mapping[str, Any], rows: Sequence[Row] | None = None
) -> tuple[list[Point], bool]:
    """The frontier, and whether it is the final one.

    While a run goes on, it is that of the trials so far; one that was stopped has exported its own.
    """
    if (exported := exported_points(place, record)) is not None:
        return exported, record.get("status") == "complete"
    rows = Ledger(place).rows() if rows is None else rows
    points = so_far(rows, metric_of(record), axis_of(record))
    for point in points:
        point["checkpoint"] = storage.inside(place, point["checkpoint"])
    return points, False


def exported_points(place: str, record: Mapping[str, Any]) -> list[Point] | None:
    """The frontier whose models are under `points/`; None while the run goes on."""
    table = storage.open_uri(place) / "frontier.parquet"
    status = record.get("status")
    written = status == "complete" or (status == "interrupted" and record.get("exported"))
    if not written or not storage.exists(table):
        return None
    points: list[Point] = read_table(table).to_pylist()
    for point in points:  # where the run lies now, wherever it was made
        point["checkpoint"] = point_checkpoint(place, point["rank"])
    return points


def so_far(rows: Sequence[Row], metric: Metric = TOP1, axis: CostAxis = MACS) -> list[Point]:
    """The frontier of finished trials, by what each scored on val."""
    from search.pareto import front

    done = [row for row in rows if row.status == "complete" and row.score_val is not None]
    names = "trial_id method widths macs params predicted_ms measured_ms score_val checkpoint"
    return [
        {"rank": rank} | {name: getattr(done[i], name) for name in names.split()}
        for rank, i in enumerate(front.front(front.points_of(done, metric, axis)))
    ]


def read_table(
    location: storage.Location, columns: Mapping[str, checks.Check] = checks.FRONTIER
) -> Any:
    """pyarrow.Table of a parquet file of the run; UserError if it is damaged or lacks `columns`."""
    import pyarrow as pa

    try:
        table = checks.renamed(storage.read_parquet(location))
        wrong = checks.table_faults(table, columns)
    except (OSError, ValueError, pa.ArrowException):
        wrong = ["all of it"]
    if wrong:
        raise UserError(
            f"{location} is damaged ({wrong[0]}); delete it and repeat the search's command to "
            "write it again"
        )
    return table


def read_base_latency(place: str) -> dict[str, Any]:
    """The base model's latency columns, beside which the frontier's were measured; or {}."""
    table = storage.open_uri(place) / "frontier.parquet"
    if not storage.exists(table):
        return {}
    metadata = read_table(table).schema.metadata or {}
    try:
        found = json.loads(metadata.get(BASE_LATENCY, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def base_checkpoint(place: str | os.PathLike[str]) -> str:
    """Address of the run's base model."""
    from pruning.models import files

    return files.join(place, "base.safetensors")


def point_checkpoint(place: str | os.PathLike[str], rank: int) -> str:
    """Address of a point's model."""
    from pruning.models import files

    return files.join(place, "points", f"{rank:03d}", "model.safetensors")


def pruned_by(method: str, macs: int, base_macs: int | None) -> str:
    """What a network is said to be pruned by; the base model, a trial too, by nothing."""
    return "base" if macs == base_macs else method


def score(point: Mapping[str, Any]) -> float | None:
    """A point's best measured score: the mean on test, else what it has on val."""
    for name in ("score_test_mean", "score_test", "score_val_mean", "score_val"):
        if (value := point.get(name)) is not None:
            return float(value)
    return None


def _comparison(place: str) -> list[Point]:
    table = storage.open_uri(place) / "comparison.parquet"
    if not storage.exists(table):
        return []
    return list(read_table(table, checks.COMPARISON).to_pylist())


def _base_widths(place: str, record: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, int]:
    from pruning.models import checkpoint

    try:
        return checkpoint.info(base_checkpoint(place)).widths
    except UserError:  # a run without its base model: the base is among the first trials
        names = record.get("base", {}).get("groups", [])
        vectors = [row.widths for row in rows if len(row.widths) == len(names)]
        return dict(zip(names, map(max, zip(*vectors, strict=True)), strict=False))
