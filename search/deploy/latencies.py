"""Latency columns of a run's frontier: every point and the base model, on one device."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pruning.errors import UserError
from pruning.latency import describe_device
from pruning.models import checkpoint
from search.frontier import points as export
from search.storage import files, results
from search.trial import latency

PREFIX = "latency_"
DTYPE = "float32"


def measure(
    place: str,
    batches: Sequence[int],
    device: str,
    *,
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> pa.Table:
    """Time the points in PyTorch and write the columns into frontier.parquet and frontier.csv.

    Per batch size n: latency_ms_bN (median) and latency_iqr_ms_bN; then latency_device and
    latency_dtype. The base model's are in the parquet's metadata. Earlier ones are replaced.
    """
    run = files.open_uri(place)
    ranks = [int(point["rank"]) for point in exported_points(place)]
    table = results.read_table(run / "frontier.parquet")
    columns = [_columns(results.base_checkpoint(place), batches, device, trust)]
    say(f"base model: {_show(columns[0])}")
    for rank in ranks:
        columns.append(_columns(results.point_checkpoint(place, rank), batches, device, trust))
        say(f"point {rank}: {_show(columns[-1])}")
    timed = add_columns(table, columns[1:], columns[0])
    store(place, timed)
    return timed


def store(place: str, table: pa.Table) -> None:
    """Write a frontier's table with columns added, as frontier.parquet and frontier.csv."""
    run = files.open_uri(place)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    files.write(run / "frontier.parquet", sink.getvalue().to_pybytes())
    files.write(run / "frontier.csv", export.to_csv(table))


def add_columns(
    table: pa.Table, measured: Sequence[dict[str, Any]], base: dict[str, Any]
) -> pa.Table:
    """The table with latency columns, one mapping for each row; older ones are dropped."""
    table = table.drop_columns([n for n in table.column_names if n.startswith(PREFIX)])
    for name in base:
        numeric = "_ms_" in name
        unit = _unit(name)
        field = pa.field(
            name,
            pa.float64() if numeric else pa.string(),
            metadata={"unit": unit} if unit else None,
        )
        values = pa.array([row[name] for row in measured], field.type)
        before = table.column_names.index("checkpoint")  # which stays last: it is the longest
        table = table.add_column(before, field, values)
    metadata = {**(table.schema.metadata or {}), results.BASE_LATENCY: json.dumps(base)}
    return table.replace_schema_metadata(metadata)


def exported_points(place: str) -> list[results.Point]:
    """The points whose models are files; UserError while the search goes on, or without any."""
    record = results.read_record(place)
    points = results.exported_points(place, record)
    if points is None:
        raise UserError(
            f"{place} is {record.get('status')}, its points are no files yet; "
            "let the search end (the same command goes on)"
        )
    if not points:
        raise UserError(f"the frontier of {place} has no points; raise --trials and go on")
    return points


def _columns(path: str, batches: Sequence[int], device: str, trust: bool) -> dict[str, Any]:
    model = checkpoint.load(path, trust=trust)
    shape = checkpoint.info(path).input_shape
    found: dict[str, Any] = {}
    for batch in batches:
        timed = latency.of_model(model, shape, batch, device)
        found[f"latency_ms_b{batch}"] = timed.median_ms
        found[f"latency_iqr_ms_b{batch}"] = timed.iqr_ms
    return found | {"latency_device": describe_device(device), "latency_dtype": DTYPE}


def _unit(name: str) -> str:
    if name.startswith("latency_ms_b"):
        return f"milliseconds for a batch of {name.removeprefix('latency_ms_b')}, median, PyTorch"
    if name.startswith("latency_iqr_ms_b"):
        return "milliseconds, interquartile range"
    return ""


def _show(columns: dict[str, Any]) -> str:
    medians = {n: v for n, v in columns.items() if n.startswith("latency_ms_b")}
    return ", ".join(
        f"{value:.3g} ms ± {columns[name.replace('_ms_', '_iqr_ms_')]:.2g} at batch "
        f"{name.removeprefix('latency_ms_b')}"
        for name, value in medians.items()
    )
