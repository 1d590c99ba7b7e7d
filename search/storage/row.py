"""One finished trial: a row of the ledger, as data, as JSON and as a table's columns."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from search.pareto import TOP1, Metric
from search.storage import checks

Status = Literal["complete", "stopped", "failed", "infeasible"]
STATUSES: tuple[str, ...] = typing.get_args(Status)
WHOLE, REPAIRED, TUNED = "whole", "repaired", "tuned"  # which network a trial keeps

COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("trial_id", pa.string(), ""),
    ("arch_hash", pa.string(), "method, widths and recipe"),
    ("method", pa.string(), ""),
    ("proposal", pa.string(), "JSON: kind, source, params, scalars, asked"),
    ("parent", pa.string(), "trial that its weights began with; empty: the base model"),
    ("widths", pa.list_(pa.int32()), "channels per group"),
    ("macs", pa.int64(), "multiply-accumulates for one image"),
    ("params", pa.int64(), "parameters"),
    ("predicted_ms", pa.float64(), "milliseconds for a batch, foretold; null where none are"),
    ("measured_ms", pa.float64(), "milliseconds, median, of members of the frontier"),
    ("measured_iqr_ms", pa.float64(), "milliseconds, interquartile range"),
    ("score_pruned", pa.float64(), "fraction, validation split, right after the cut"),
    ("score_repaired", pa.float64(), "fraction, validation split, before any gradient step"),
    ("score_val", pa.float64(), "fraction, validation split"),
    ("state", pa.string(), f"the network kept: {WHOLE} | {REPAIRED} | {TUNED}"),
    ("curve", pa.list_(pa.float64()), "fraction, validation split, after each epoch"),
    ("epochs", pa.float64(), "epochs of fine-tuning"),
    ("status", pa.string(), " | ".join(STATUSES)),
    ("reason", pa.string(), ""),
    ("seed", pa.int64(), ""),
    ("prune_s", pa.float64(), "seconds"),
    ("finetune_s", pa.float64(), "seconds"),
    ("wall_s", pa.float64(), "seconds"),
    ("host", pa.string(), ""),
    ("device", pa.string(), ""),
    ("checkpoint", pa.string(), "path in the run; empty where its weights are not kept"),
    ("started_at", pa.timestamp("us", tz="UTC"), "UTC"),
)


def table_schema(columns: Iterable[tuple[str, pa.DataType, str]], metric: Metric) -> pa.Schema:
    """Columns of a run's table: units, and of scores the metric, are in their metadata."""
    fields = []
    for name, kind, unit in columns:
        metadata = {"unit": unit} if unit else {}
        if name.startswith("score_") or name == "curve":
            own = "fraction" if metric.fraction else metric.unit or "1"
            metadata = {"unit": unit.replace("fraction", own), "metric": metric.name}
            metadata["direction"] = metric.direction
        fields.append(pa.field(name, kind, metadata=metadata or None))
    return pa.schema(fields)


def _status(value: Any) -> bool:
    return isinstance(value, str) and value in STATUSES


# what a column of each type may hold in a file
_FITS: Mapping[str, Callable[[Any], bool]] = {
    "str": checks.text,
    "int": checks.count,
    "float": checks.number,
    "float | None": checks.optional(checks.number),
    "tuple[int, ...]": checks.list_of(checks.width),
    "tuple[float, ...]": checks.list_of(checks.number),
    "Mapping[str, Any]": checks.proposal,
    "Status": _status,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended. Scores are the metric's or None, times in s; widths as achieved.

    curve: score on val after each epoch; the last epoch can be a part of one.
    """

    status: Status
    reason: str = ""
    widths: tuple[int, ...] | None = None
    score_pruned: float | None = None
    score_repaired: float | None = None
    score_val: float | None = None
    state: str = ""
    curve: tuple[float, ...] = ()
    epochs: float = 0.0
    seed: int = 0
    prune_s: float = 0.0
    finetune_s: float = 0.0
    wall_s: float = 0.0
    host: str = ""
    device: str = ""
    checkpoint: str = ""
    started_at: str = ""


@dataclass(frozen=True, kw_only=True)
class Row(Outcome):
    """One finished trial: what it was, and how it ended; costs as achieved.

    `proposal` is plain JSON data: kind, source, params (what the sampler chose), scalars and
    asked. `trial_id` is `NUMBER-HASH`, see `trial_id()`. `parent`: the trial whose trained network
    it began with, "" for the base model.
    """

    trial_id: str
    arch_hash: str
    method: str
    proposal: Mapping[str, Any]
    widths: tuple[int, ...] = dataclasses.field()  # a row without any has an empty one
    macs: int
    params: int
    parent: str = ""
    predicted_ms: float | None = None
    measured_ms: float | None = None
    measured_iqr_ms: float | None = None

    @property
    def number(self) -> int:
        """The trial's place in the run, from its id."""
        return int(self.trial_id.split("-")[0])

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False, default=_plain)

    @classmethod
    def from_json(cls, text: str | bytes) -> Row:
        """Parse and check one row; ValueError says what is wrong with it.

        Columns that a later version added are left alone.
        """
        try:
            data = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(data, dict):
            raise ValueError("not a ledger row")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        data = {checks.RENAMED.get(name, name): value for name, value in data.items()}
        row: dict[str, Any] = {name: value for name, value in data.items() if name in fields}
        for name, field in fields.items():
            needed = field.default is dataclasses.MISSING
            if name not in row and needed:
                raise ValueError(f"not a ledger row: without {name}")
            if name in row and not _FITS[str(field.type)](row[name]):
                raise ValueError(f"{name} of another type or out of range: {row[name]!r:.60}")
        for name in ("widths", "curve"):
            row[name] = tuple(row.get(name, ()))
        found = cls(**row)
        _ = found.number, _timestamp(found.started_at)  # both must parse
        return found


def trial_id(number: int, arch_hash: str) -> str:
    """Id that sorts by number and cannot collide with one given before a restart."""
    return f"{number:05d}-{arch_hash[:10]}"


def arch_hash(
    method: str,
    widths: Sequence[int] | None,
    recipe: Mapping[str, Any],
    scalars: Mapping[str, Any] | None = None,
) -> str:
    """16 hex digits that name an architecture and its training, whatever the order of keys.

    Scalars count where there are any: a method may select channels by them. Widths may be None
    where the scalars decide them.
    """
    vector = None if widths is None else [int(w) for w in widths]
    content = [method, vector, dict(recipe), dict(scalars or {})]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_table(rows: Iterable[Row], metric: Metric = TOP1) -> pa.Table:
    """Rows as an Arrow table with the contract's column types and their units as metadata."""
    records = []
    for row in rows:
        record = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        record["proposal"] = json.dumps(record["proposal"], sort_keys=True, default=_plain)
        record["started_at"] = _timestamp(row.started_at)
        records.append(record)
    return pa.Table.from_pylist(records, schema=table_schema(COLUMNS, metric))


def _timestamp(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _plain(value: Any) -> Any:
    """JSON for numpy scalars and arrays and for dataclasses."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON data")
