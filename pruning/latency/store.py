"""Tables and timed layers as JSON: what is timed once is not timed again."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pruning.errors import UserError
from pruning.graph import ChannelGraph, Lattice
from pruning.latency.grid import Grid
from pruning.latency.rest import Rest
from pruning.latency.runtimes import Runtime
from pruning.latency.table import LatencyTable, Measured, build, line
from pruning.models import files

FORMAT = 2
logger = logging.getLogger(__name__)


def to_json(table: LatencyTable) -> str:
    """A table without its graph."""
    grids = {each.kind: each.grid for each in table.lines}
    return json.dumps(
        {
            "format": FORMAT,
            "runtime": table.runtime,
            "batch": table.batch,
            "rest": asdict(table.rest) | {"held": _finite(table.rest.held)},
            "lines": [[each.weight, each.kind] for each in table.lines],
            "grids": {name: _plain(found) for name, found in grids.items()},
            "measured": {
                "widths": table.measured.widths.tolist(),
                "ms": table.measured.ms.tolist(),
            },
        }
    )


def from_json(text: str, graph: ChannelGraph) -> LatencyTable:
    """The table of the network that `graph` is of; ValueError or KeyError where it is no such."""
    data = json.loads(text)
    if data["format"] != FORMAT:
        raise ValueError(f"latency table of format {data['format']}, this reads {FORMAT}")
    grids = {name: _grid(found) for name, found in data["grids"].items()}
    measured = data["measured"]
    return LatencyTable(
        lines=tuple(line(graph, weight, kind, grids[kind]) for weight, kind in data["lines"]),
        rest=_rest(data["rest"]),
        measured=Measured(
            np.array(measured["widths"], dtype=np.int64), np.array(measured["ms"], dtype=float)
        ),
        runtime=str(data["runtime"]),
        batch=int(data["batch"]),
    )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _rest(data: Mapping[str, Any]) -> Rest:
    held = math.inf if data["held"] is None else float(data["held"])
    names = [each.name for each in fields(Rest) if each.name != "held"]
    return Rest(**{name: float(data[name]) for name in names}, held=held)


def known(runtime: Runtime) -> dict[str, Grid]:
    """The layers that were timed on this device before, by kind; none where the file is damaged."""
    place = _place(runtime)
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}")
        return {name: _grid(found) for name, found in data["grids"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        logger.warning("%s: %s; timing again", place, error)
        return {}


def keep(runtime: Runtime, grids: Mapping[str, Grid]) -> None:
    """Add timed layers to those of this device."""
    everything = known(runtime) | dict(grids)
    data = {
        "format": FORMAT,
        "runtime": runtime.describe(),
        "grids": {name: _plain(found) for name, found in everything.items()},
    }
    place = _place(runtime)
    try:
        files.write(str(place), json.dumps(data).encode())
    except UserError as error:
        logger.warning("%s; the timings are not kept", error)


def measured_table(
    model: nn.Module,
    graph: ChannelGraph,
    lattice: Lattice,
    runtime: Runtime,
    say: Callable[[str], None] = lambda text: None,
    example: Any = None,
) -> LatencyTable:
    """The table of a network, its layers timed unless they were so on this device before.

    example: as `build` takes it.
    """
    grids = known(runtime)
    before = set(grids)
    try:
        return build(model, graph, lattice, runtime, grids, say, example=example)
    finally:  # Ctrl-C: what is timed is timed
        if set(grids) - before:
            keep(runtime, grids)


def _place(runtime: Runtime) -> Path:
    name = f"{runtime.describe()} batch {runtime.batch}"
    top = Path(os.environ.get("SLIMFRONT_CACHE") or "~/.cache/slimfront").expanduser()
    return top / "latency" / f"{hashlib.sha256(name.encode()).hexdigest()[:20]}.json"


def _plain(found: Grid) -> dict[str, Any]:
    return {name: getattr(found, name).tolist() for name in ("rows", "columns", "ms")}


def _grid(data: Mapping[str, Any]) -> Grid:
    rows, columns = (np.array(data[name], dtype=np.int64) for name in ("rows", "columns"))
    ms = np.array(data["ms"], dtype=np.float64)
    if ms.shape != (len(rows), len(columns)) or not np.isfinite(ms).all():
        raise ValueError("a grid whose sides do not fit")
    return Grid(rows, columns, ms)
