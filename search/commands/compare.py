"""`slimfront compare`: one-shot pruning beside the frontier of a run."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from pruning.errors import UserError
from search.config import Parser, notation

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from search.config import Config


@dataclass(frozen=True)
class CompareOptions:
    """What to set beside the frontier.

    Args:
        baselines: One-shot methods: a name, a list, or all.
        budgets: What each one may cost, in what the run saves: shares of the base model's, or
            amounts such as 60M.
        seeds: Trainings of each network, with the recipe that the frontier's members had.
        address: Ray address; null starts Ray on this machine.
        data_root: Folder or URI of the run's images; null is the local folder that the run had.
        trust_factory: Allow package.module:factory, which runs that package's code (true or false).
    """

    baselines: str = "peel"
    budgets: str = "70%,50%,30%"
    seeds: int = 3
    address: str | None = None
    data_root: str | None = None
    trust_factory: bool = False


def run(argv: Sequence[str], prog: str) -> None:
    """Train the one-shots, write comparison.parquet, .csv and .png, print the table."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN [--baselines peel|all] [--budgets 70%,50%,30%] [--seeds 3] [--json]",
        description="Set one-shot pruning beside the frontier of a finished search.",
    )
    parser.add_argument("run", metavar="RUN", help="folder or URI of a search (its --out)")
    parser.add_dataclass(CompareOptions)
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = parser.read(argv)
    options = CompareOptions(**{f.name: found[f.name] for f in fields(CompareOptions)})
    _check(options)

    from rich.console import Console

    console = Console(stderr=bool(found["json"]))

    from search.backend import ray_log

    with ray_log.kept(found["run"], console):
        table, record, points = compare(found["run"], options, console)
    if found["json"]:
        print(json.dumps(table.to_pylist(), indent=1))
    else:
        show(table, record, points, console)


def compare(
    place: str, options: CompareOptions, console: Console
) -> tuple[pa.Table, dict[str, Any], list[dict[str, Any]]]:
    """The comparison, the run's record and its frontier."""
    from search.backend import base_task, cluster
    from search.config import loader, validation
    from search.frontier import baselines as comparison
    from search.storage import files as storage
    from search.storage import read_points, read_record
    from search.trial import base_model

    record = read_record(place)
    every, finished = read_points(place, record)
    points = [point for point in every if point.get("score_test_mean") is not None]
    if not finished or not points:
        raise UserError(f"{place} has no final frontier yet; finish its search first")
    if untested := len(every) - len(points):
        console.print(f"{untested} points without a final training are left out")
    settings = loader.absolute(_as_called(loader.from_dict(record["config"]), place, options))
    names = validation.method_names(options.baselines, "--baselines")
    storage.check_writable(storage.open_uri(place))
    search = replace(settings.search, method=",".join(names), seeds=False)
    measured = replace(settings, search=search)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    cluster.connect(measured)
    share = cluster.share(measured)
    base: base_model.BaseModel = base_task.run(
        measured,
        record,
        base_task.prepare,
        share,
        say,
        meanwhile=lambda: importlib.import_module("search.backend.retrain"),
    )
    shares = _shares(options, record)
    table = comparison.compare(measured, base, shares, options.seeds, points, share, say)
    return table, record, points


def _as_called(settings: Config, place: str, options: CompareOptions) -> Config:
    """The run's settings, with consent and addresses from the caller alone.

    UserError where the run names some that the caller has not given.
    """
    from pruning.models import registry
    from search.config import NAMED, is_local

    model, data = settings.model, settings.data
    name = model.name if settings.task in NAMED else settings.task
    if registry.runs_code(name) and not options.trust_factory:
        raise UserError(
            f"{place} is a run of {name}, which runs code of that module; "
            "--trust_factory true allows it, if you trust it"
        )
    root = options.data_root or data.root
    if options.data_root is None and root is not None and not is_local(root):
        raise UserError(
            f"{place} names images at {root}; --data_root {root} reads them there, "
            "if you trust that address"
        )
    return replace(
        settings,
        out=place,
        model=replace(model, trust_factory=options.trust_factory, weights=None),
        data=replace(data, root=root, download=False),
        resources=replace(settings.resources, address=options.address, storage_path=None),
        search=replace(settings.search, warm_start=None),
    )


def show(
    table: pa.Table, record: dict[str, Any], points: list[dict[str, Any]], console: Console
) -> None:
    """Print the comparison; gaps in the metric's steps and in shares of the base model's cost."""
    from rich.markup import escape
    from rich.table import Table

    from search.storage import axis_of, metric_of

    metric, axis = metric_of(record), axis_of(record)

    shown = Table(title="one-shot pruning beside the frontier (test, mean ± std)")
    columns = (
        "method",
        "of base",
        metric.column("test"),
        f"frontier's gain [{metric.step}]",
        f"{axis.word} saved [% of base]",
        "verdict",
        "cost [s]",
    )
    for column in columns:
        shown.add_column(
            escape(column), justify="left" if column in ("method", "verdict") else "right"
        )
    for row in table.to_pylist():
        found = metric.number(row["score_test_mean"]) + metric.spread(row["score_test_std"])
        cost = row["prepare_s"] + row["allocate_s"] + row["train_s"]
        shown.add_row(
            row["method"],
            f"{axis.share(row):.1%}",
            found,
            _signed(row["score_gap"], metric.scale, metric.digits) + metric.spread(row["margin"]),
            _signed(row["cost_gap"]),
            row["verdict"],
            f"{cost:.1f}",
        )
    console.print(shown)
    console.print(
        "a gain is told with two standard errors, of the seeds and of the test images: a smaller "
        "one may be chance, and dominates nothing",
        style="dim",
    )
    cost = record.get("cost", {})
    console.print(
        f"the frontier's {len(points)} points took {cost.get('trials', '?')} trials in "
        f"{cost.get('seconds', 0):.0f} s and final trainings of {cost.get('final_seconds', 0):.0f} "
        f"s; gain: at no more {axis.word}; saved: at no worse score",
        highlight=False,
    )


def _signed(value: float | None, scale: float = 100.0, digits: int = 2) -> str:
    return "–" if value is None else f"{scale * value:+.{digits}f}"


def _check(options: CompareOptions) -> None:
    """UserError for what is wrong whatever the run is."""
    from search.config import validation

    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: must be 1 or more")
    notation.amounts(options.budgets, "--budgets")
    validation.method_names(options.baselines, "--baselines")


def _shares(options: CompareOptions, record: dict[str, Any]) -> list[float]:
    """The targets as shares of what the base model costs."""
    from search.storage import axis_of

    axis = axis_of(record)
    base = axis.base
    shares = [amount.of(base) / base for amount in notation.amounts(options.budgets, "--budgets")]
    if max(shares) > 1:
        raise UserError(
            f"--budgets {options.budgets}: the base model has {axis.show(base)}; ask for less"
        )
    return shares
