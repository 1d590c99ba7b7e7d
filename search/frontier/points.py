"""The frontier on disk: frontier.parquet, frontier.csv, frontier.png, points/NNN/."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pruning.models import files
from search.backend import Member
from search.frontier import pictures
from search.pareto import MACS, TOP1, CostAxis, Metric, front
from search.storage import Row, checks, results, table_schema
from search.storage import files as storage

logger = logging.getLogger(__name__)

_COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("rank", pa.int32(), "0 costs least"),
    ("trial_id", pa.string(), ""),
    ("method", pa.string(), ""),
    ("proposal", pa.string(), "JSON"),
    ("widths", pa.list_(pa.int32()), "channels per group"),
    ("macs", pa.int64(), "multiply-accumulates for one image"),
    ("macs_share", pa.float64(), "share of the base model's MACs"),
    ("params", pa.int64(), "parameters"),
    ("predicted_ms", pa.float64(), "milliseconds for a batch, foretold; null where none are"),
    ("measured_ms", pa.float64(), "milliseconds for a batch, median of the whole network"),
    ("measured_iqr_ms", pa.float64(), "milliseconds, interquartile range"),
    ("score_val", pa.float64(), "fraction, validation split, the exported weights"),
    ("score_val_mean", pa.float64(), "fraction, over seeds"),
    ("score_val_std", pa.float64(), "fraction, over seeds; null for one seed"),
    ("score_test", pa.float64(), "fraction, test split, the exported weights"),
    ("score_test_mean", pa.float64(), "fraction, over seeds"),
    ("score_test_std", pa.float64(), "fraction, over seeds; null for one seed"),
    ("seeds", pa.int32(), "trainings"),
    ("epochs", pa.float64(), "epochs of each of them"),
    ("checkpoint", pa.string(), "path in the run"),
)
NAMES = [name for name, _, _ in _COLUMNS]
MODEL = "model.safetensors"
TIMES = ("predicted_ms", "measured_ms", "measured_iqr_ms")


def export(
    out: str, members: Sequence[Member], rows: Sequence[Row], record: dict[str, Any]
) -> pa.Table:
    """Write the frontier's tables, picture and models into the run at `out`; returns the table.

    A frontier that is there already keeps its exports and latencies; what is missing is made anew.
    """
    run, lost = storage.open_uri(out), 0
    made = frontier_table(members, record["base_macs"], results.metric_of(record))
    known = _written(run, made)
    table = made if known is None else known
    for rank, member in enumerate(members):
        folder = run / "points" / f"{rank:03d}"
        model = folder / MODEL
        if known is not None and storage.exists(model):
            continue
        data = files.read(member.best.checkpoint)
        if storage.exists(model) and storage.read_bytes(model) != data:
            lost += len(storage.list_files(folder)) > 1
            storage.remove_folder(folder)  # its exports are of another network
        storage.write(model, data)
    if lost:
        logger.warning(
            "%d points are other networks now, their exports are gone; "
            "slimfront export %s makes them, and latencies, anew",
            lost,
            out,
        )
    _forget_points(run, len(members))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write(run / "frontier.parquet", sink.getvalue().to_pybytes())
    storage.write(run / "frontier.csv", to_csv(table))
    storage.write(run / "frontier.png", _picture(table, rows, record))
    return table


def _written(run: storage.Location, table: pa.Table) -> pa.Table | None:
    """The run's frontier.parquet, with whatever was added to it, where it is of these points."""
    try:
        found = checks.renamed(storage.read_parquet(run / "frontier.parquet"))
        same = found.select(NAMES).to_pylist() == table.to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid, KeyError):
        return None
    return found if same else None


def forget_checkpoints(
    out: str, rows: Sequence[Row], metric: Metric = TOP1, axis: CostAxis = MACS
) -> None:
    """Remove the weights of complete trials that the frontier of single trainings leaves out.

    None of them can come back to it: later trials only add to what dominates them. What failed
    trials began with stays, for their next try.
    """
    done = [row for row in rows if row.status == "complete"]
    kept = {done[i].trial_id for i in front.front(front.points_of(done, metric, axis))}
    kept |= {row.parent for row in rows if row.status == "failed"}
    # the base model has had no training; it may return where final trainings go badly
    gone = {row.trial_id for row in done if row.trial_id not in kept and row.epochs > 0}
    for file in storage.list_files(storage.open_uri(out) / "checkpoints", ".safetensors"):
        if file.name.removesuffix(".safetensors") in gone:
            storage.remove_file(file)


def frontier_table(members: Sequence[Member], base_macs: int, metric: Metric = TOP1) -> pa.Table:
    """The Pareto set by cost, with the contract's columns and their units as metadata."""
    records = []
    for rank, member in enumerate(members):
        row, best = member.row, member.best
        val = [training.val for training in member.trainings]
        test = [training.test for training in member.trainings if training.test is not None]
        records.append(
            {
                "rank": rank,
                "trial_id": row.trial_id,
                "method": row.method,
                "proposal": json.dumps(dict(row.proposal), sort_keys=True),
                "widths": list(row.widths),
                "macs": row.macs,
                "macs_share": row.macs / base_macs,
                "params": row.params,
                **{name: getattr(row, name) for name in TIMES},
                "score_val": best.val,
                "score_val_mean": float(np.mean(val)),
                "score_val_std": _std(val),
                "score_test": best.test,
                "score_test_mean": float(np.mean(test)) if test else None,
                "score_test_std": _std(test),
                "seeds": len(member.trainings),
                "epochs": best.epochs,
                "checkpoint": f"points/{rank:03d}/{MODEL}",
            }
        )
    return pa.Table.from_pylist(records, schema=table_schema(_COLUMNS, metric))


def to_csv(table: pa.Table) -> bytes:
    """The table as CSV; a list becomes one cell of numbers with spaces between them."""
    for i, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            cells = [" ".join(map(str, cell)) for cell in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(cells, pa.string()))
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue()


def _picture(table: pa.Table, rows: Sequence[Row], record: dict[str, Any]) -> bytes:
    return pictures.png(pictures.frontier(table.to_pylist(), rows, record))


def _forget_points(run: storage.Location, count: int) -> None:
    """Remove points of an earlier, longer frontier."""
    for folder in storage.list_folders(run / "points"):
        if folder.name.isdigit() and int(folder.name) >= count:
            storage.remove_folder(folder)


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
