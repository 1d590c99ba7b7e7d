"""`slimfront frontier`: the frontier of a run, finished or still running."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pruning.errors import UserError
from search.arguments import Parser
from search.quantity import human

if TYPE_CHECKING:
    from rich.console import Console

    from search.storage import Location

Record = dict[str, Any]


def run(argv: Sequence[str], prog: str) -> None:
    """Print the frontier as a table, or as JSON."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN [--json]",
        description=(
            "Show the frontier of a run: of its finished trials while it runs, and with test "
            "accuracies once it has ended."
        ),
    )
    parser.add_argument("run", metavar="RUN", help="folder or URI of a search (its --out)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = parser.read(argv)
    if found["json"]:
        # accuracies are fractions, MACs for one image; a value that was not measured is null
        print(json.dumps(read(found["run"]), indent=1, allow_nan=False))
    else:
        from rich.console import Console

        show(found["run"], Console())


def read(place: str) -> Record:
    """{"run", "status", "finished", "base_macs", "points"} of a run; UserError if there is none.

    Until a run has ended, and while it is extended, the points are those of its trials so far.
    """
    from search import storage

    folder = storage.open_uri(place)
    record = _run_record(folder, place)
    table = folder / "frontier.parquet"
    status = record.get("status")
    finished = status == "complete" and storage.exists(table)
    points = _finished(table) if finished else _so_far(place)
    return {
        "run": place,
        "status": status,
        "finished": finished,
        "base_macs": record.get("base_macs"),
        "points": [{key: _plain(value) for key, value in point.items()} for point in points],
    }


def show(place: str, console: Console) -> Record:
    """Print the frontier of a run as a table; returns what `read` does."""
    from rich.markup import escape
    from rich.table import Table

    found = read(place)
    points, base = found["points"], found["base_macs"]
    if not points:
        console.print(
            f"no finished trial yet in {place}; the frontier fills as trials end", markup=False
        )
        return found
    tested = any(point.get("top1_test_mean") is not None for point in points)
    state = "" if found["finished"] else ", so far"
    table = Table(title=escape(f"{len(points)} points on the frontier of {place}{state}"))
    columns = (
        ["#", "MACs"] + ["of base"] * bool(base) + ["parameters", "val %"] + ["test %"] * tested
    )
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("method")
    for i, point in enumerate(points):
        cells = [str(point.get("rank", i)), human(point["macs"])]
        cells += [f"{point['macs'] / base:.1%}"] * bool(base)
        cells += [human(point["params"]), _percent(point.get("top1_val"))]
        cells += [_percent(point.get("top1_test_mean"), point.get("top1_test_std"))] * tested
        table.add_row(*cells, escape(str(point["method"])))
    console.print(table)
    return found


def _run_record(folder: Location, place: str) -> Mapping[str, Any]:
    from search import storage

    try:
        record = json.loads(storage.read_bytes(folder / "run.json"))
    except (OSError, ValueError):
        raise UserError(
            f"{place} holds no run.json; name the folder of a search, its --out"
        ) from None
    return record if isinstance(record, dict) else {}


def _finished(table: Location) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from search import storage

    try:
        rows: list[Record] = pq.read_table(pa.BufferReader(storage.read_bytes(table))).to_pylist()
    except (OSError, pa.ArrowInvalid):
        raise UserError(
            f"{table} is damaged; delete it and repeat the search's command to write it again"
        ) from None
    return rows


def _so_far(place: str) -> list[Record]:
    from search import pareto
    from search.ledger import Ledger

    rows = [
        row for row in Ledger(place).rows() if row.status == "complete" and row.top1_val is not None
    ]
    names = ("trial_id", "method", "widths", "macs", "params", "top1_val", "checkpoint")
    best = pareto.front([(row.macs, row.top1_val or 0.0) for row in rows])
    return [
        {"rank": rank} | {name: getattr(rows[i], name) for name in names}
        for rank, i in enumerate(best)
    ]


def _percent(value: float | None, deviation: float | None = None) -> str:
    if value is None:
        return "–"
    spread = f" ± {100 * deviation:.2f}" if deviation is not None else ""
    return f"{100 * value:.2f}{spread}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float | list | dict | None) else str(value)
