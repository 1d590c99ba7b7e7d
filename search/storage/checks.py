"""Whether what a run folder holds is what a search writes: types and ranges, before it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from pruning.errors import UserError
from search.pareto import CostAxis, Metric

Check = Callable[[Any], bool]


def count(value: Any, most: int = 2**63) -> bool:
    """A whole number from 0 that fits a column."""
    return type(value) is int and 0 <= value < most


def width(value: Any) -> bool:
    return count(value, 2**31)


def number(value: Any) -> bool:
    """A finite number that fits a column."""
    if type(value) is int:
        return abs(value) < 2**63
    return type(value) is float and math.isfinite(value)


def _number_or_nan(value: Any) -> bool:
    return number(value) or value != value


def text(value: Any) -> bool:
    """Text that a file can hold: JSON can also spell halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def proposal(value: Any) -> bool:
    """The ledger's column: text, and what a sampler chose as plain numbers and names."""
    if not isinstance(value, dict):
        return False
    choices = [value.get("params", {}), value.get("scalars", {})]
    return all(text(value.get(key, "")) for key in ("kind", "source")) and all(
        isinstance(chosen, dict) and all(number(v) or text(v) for v in chosen.values())
        for chosen in choices
    )


def _mapping_of(checks: Mapping[str, Check]) -> Check:
    return lambda value: isinstance(value, dict) and not faults(value, checks)


def faults(found: Mapping[str, Any], checks: Mapping[str, Check]) -> list[str]:
    """Keys of `checks` that are missing in `found` or hold something else."""
    return [key for key, check in checks.items() if key not in found or not check(found[key])]


def _positive(value: Any) -> bool:
    return count(value) and value > 0


def _above_zero(value: Any) -> bool:
    return number(value) and value > 0


def _plain(value: Any) -> bool:
    """What JSON can hold and every reader can show, not nested without end."""
    if isinstance(value, dict):
        return all(text(key) and _plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool) or number(value) or text(value)


def _config(value: Any) -> bool:
    """Sections are mappings, and the names of model and data text."""
    sections = ("model", "data", "base", "finetune", "search", "latency", "resources")
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(section, {}), dict) for section in sections)
        and all(text(value.get(section, {}).get("name", "")) for section in ("model", "data"))
    )


def _base(value: Any) -> bool:
    """Of a base model: names of groups, and its time where a search knows one."""
    time = {"runtime": text, "batch": width, "predicted_ms": number, "measured_ms": number}
    known = {"groups": list_of(text), "latency": optional(_mapping_of(time))}
    return isinstance(value, dict) and not faults({"latency": None} | value, known)


RECORD: Mapping[str, Check] = {
    "status": text,
    "seed": count,
    "base_macs": _positive,
    "base_params": _positive,
    "base_score_val": number,
    "base_score_test": number,
    "base": _base,
    "reference_point": _mapping_of({"cost": _above_zero, "score": number}),
    "config": _config,
    "versions": _mapping_of({}),
}
"""What the run.json of every run that has begun holds; more may be there."""

FRONTIER: Mapping[str, Check] = {
    "rank": lambda value: count(value, 10**6),
    "trial_id": text,
    "method": text,
    "widths": list_of(width),
    "macs": count,
    "params": count,
}
COMPARISON: Mapping[str, Check] = {
    "method": text,
    "macs": count,
    "params": count,
    "score_test_mean": number,
    "score_test_std": optional(number),
    "margin": optional(number),
    "verdict": optional(text),
}
_NUMBERS = ("score_", "latency_ms_", "latency_iqr_ms_", "macs_", "predicted_", "measured_")


RENAMED: Mapping[str, str] = {
    "top1_pruned": "score_pruned",
    "top1_recalibrated": "score_repaired",
    "top1_gap": "score_gap",
} | {
    f"top1_{split}{what}": f"score_{split}{what}"
    for split in ("val", "test")
    for what in ("", "_mean", "_std")
}
"""Columns by the names that runs of slimfront 0.1 have; they are read as if they had today's."""


RENAMED_KEYS: Mapping[str, str] = {
    "base_top1_val": "base_score_val",
    "base_top1_test": "base_score_test",
    "accuracy": "score",
    "macs": "cost",
}
"""Keys of run.json, and of its reference point, by the names that runs of 0.1 have."""


def renamed_record(found: Mapping[str, Any]) -> dict[str, Any]:
    """A run.json with today's names."""
    record = {RENAMED_KEYS.get(key, key): value for key, value in found.items()}
    point = record.get("reference_point")
    if isinstance(point, dict):
        record["reference_point"] = {RENAMED_KEYS.get(k, k): v for k, v in point.items()}
    return record


def _metric(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        Metric.from_json(value)
    except (UserError, TypeError, KeyError, ValueError):
        return False
    texts = ("name", "unit", "direction")
    return all(text(value.get(key, "")) for key in texts) and width(value.get("digits", 2))


def _objective(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        found = CostAxis.from_json(value)
    except (UserError, TypeError, KeyError, ValueError):
        return False
    return number(found.base) and text(found.runtime) and width(found.batch)


def renamed(table: pa.Table) -> pa.Table:
    """A table with today's column names."""
    if not set(RENAMED) & set(table.column_names):
        return table
    names = [RENAMED.get(name, name) for name in table.column_names]
    return table.rename_columns(names).replace_schema_metadata(table.schema.metadata)


def record_faults(found: Mapping[str, Any]) -> list[str]:
    """Keys of a run.json whose values are none that a search writes."""
    known = {**RECORD, "metric": _metric, "objective": _objective}
    wrong = faults(found, {key: check for key, check in known.items() if key in found})
    return wrong or [key for key, value in found.items() if not _plain(value)]


def table_faults(table: pa.Table, checks: Mapping[str, Check]) -> list[str]:
    """Columns of a run's table that are missing or hold something else."""
    if missing := [name for name in checks if name not in table.column_names]:
        return missing
    rows = table.to_pylist()
    numbers = [name for name in table.column_names if name.startswith(_NUMBERS)]
    every = dict.fromkeys(numbers, optional(number)) | dict(checks)
    # pandas and others write what is missing as NaN: a deviation is missing where there is one seed
    every |= {name: optional(_number_or_nan) for name in numbers if name.endswith("_std")}
    return list(_first_faults(rows, every))


def _first_faults(rows: Iterable[Mapping[str, Any]], checks: Mapping[str, Check]) -> Iterable[str]:
    for row in rows:
        if wrong := faults(row, checks):
            return wrong
    return []
