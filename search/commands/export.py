"""`slimfront export`: points as models to deploy, tables, latencies, files for dashboards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from pruning.errors import UserError
from search.config import Parser, human
from search.frontier import select

if TYPE_CHECKING:
    from search.deploy import Deployed

Record = dict[str, Any]
WRITING = ("onnx", "torch-export")  # formats that take minutes to make


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Args:
        format: onnx and torch-export write each point's model.onnx or model.pt2 beside its
            model.safetensors, once its outputs agree with PyTorch's to 1e-4; csv and parquet write
            the tables of frontier and trials; optuna writes RUN/optuna.journal for
            optuna-dashboard; mlflow logs the trials at MLFLOW_TRACKING_URI.
        point: Rank of the one point to export; null exports all, or the one that --at-most,
            --at-least or --knee choose.
        batch: Batch sizes of the latencies that are measured.
        device: Where --latency measures: cpu, cuda, or auto (the GPU if there is one, which
            nothing else should use meanwhile).
        trust_factory: Allow package.module:factory, which runs that package's code (true or false).
    """

    format: Literal["csv", "parquet", "onnx", "torch-export", "optuna", "mlflow"] | None = None
    point: int | None = None
    batch: tuple[int, ...] = (1, 64)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_factory: bool = False


def run(argv: Sequence[str], prog: str) -> None:
    """Export as the flags say; prints what was written, or JSON."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN [--format onnx] [--point N | --knee | …] [--latency] [--json]",
        description=(
            "Export a run: points as models to deploy (each is run and compared first), tables, "
            "files for dashboards. --latency times the points on this device, warm, in PyTorch, "
            "into the columns latency_ms_bN (median) and latency_iqr_ms_bN (spread) of "
            "frontier.parquet and frontier.csv."
        ),
    )
    parser.add_argument("run", metavar="RUN", help="folder or URI of a search (its --out)")
    parser.add_dataclass(ExportOptions)
    select.add_arguments(parser)
    parser.add_argument("--latency", action="store_true", help="measure the points' latencies")
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = parser.read(argv)
    options = ExportOptions(**{f.name: found[f.name] for f in fields(ExportOptions)})
    if options.format is None and not found["latency"]:
        raise UserError("say what to export: --format onnx (--help lists them) or --latency")
    if not options.batch or min(options.batch) < 1:
        raise UserError("--batch needs sizes of 1 or more, as in --batch 1,64")
    chosen = select.options_of(found)
    if options.format is None and (options.point is not None or chosen.given):
        raise UserError(
            "--latency times all points, so that they can be compared; leave out --point, "
            "--at-most, --at-least and --knee"
        )
    written: list[Record] = []
    if found["latency"] or options.format in WRITING:
        from search.storage import files as storage
        from search.storage import results

        results.read_record(found["run"])
        storage.check_writable(storage.open_uri(found["run"]))
    if found["latency"]:
        written += _latency(found["run"], options, quiet=found["json"])
    if options.format in ("onnx", "torch-export"):
        written += _models(found["run"], options, chosen, quiet=found["json"])
    elif options.format is not None:
        written += _tables(found["run"], options.format, quiet=found["json"])
    if found["json"]:
        print(json.dumps({"run": found["run"], "written": written}, indent=1, allow_nan=False))


def _latency(place: str, options: ExportOptions, quiet: bool) -> list[Record]:
    from search.deploy import latencies
    from search.trial import latency

    device = latency.device_of(options.device)
    say = _nothing if quiet else print
    say(f"on {latency.describe_device(device)}, PyTorch {latencies.DTYPE}")
    table = latencies.measure(place, options.batch, device, trust=options.trust_factory, say=say)
    names = [name for name in table.column_names if name.startswith(latencies.PREFIX)]
    say(f"frontier.parquet and frontier.csv have them; slimfront report {place} draws them")
    return [{"file": "frontier.parquet", "latencies": table.select(["rank", *names]).to_pylist()}]


def _models(
    place: str, options: ExportOptions, chosen: select.ChooseOptions, quiet: bool
) -> list[Record]:
    """Export the points one after the other; a file that is there agrees with its model."""
    from pruning.models import checkpoint
    from pruning.models import files as uri
    from search.deploy import onnx
    from search.storage import results

    assert options.format is not None
    kind = onnx.get(options.format)
    points = _selected(place, options.point, chosen)
    path = results.base_checkpoint(place)
    base = checkpoint.load(path, trust=options.trust_factory)
    whole = onnx.deploy(base, checkpoint.info(path), kind, None, options.batch)
    if not quiet:
        print(f"base model as {kind.name}: {_show(whole)}")
    written: list[Record] = [{"point": None, "file": None} | _facts(whole)]
    for point in points:
        rank = int(point["rank"])
        source = results.point_checkpoint(place, rank)
        model = checkpoint.load(source, trust=options.trust_factory)
        target = uri.join(place, "points", f"{rank:03d}", kind.file)
        done = onnx.deploy(model, checkpoint.info(source), kind, target, options.batch)
        if not quiet:
            print(f"point {rank}, {human(point['macs'])} MACs: {_show(done, whole)}\n  {target}")
        written.append({"point": rank, "file": target} | _facts(done))
    return written


def _selected(place: str, rank: int | None, chosen: select.ChooseOptions) -> list[Record]:
    from search.deploy import latencies
    from search.storage import results

    points = latencies.exported_points(place)
    if chosen.given:
        if rank is not None:
            raise UserError("--point names the point; leave out --at-most, --at-least and --knee")
        return [dict(select.choose(points, chosen, results.read_record(place)))]
    if rank is None:
        return points
    found = [point for point in points if point["rank"] == rank]
    if not found:
        raise UserError(f"--point {rank}: the frontier has points 0 to {len(points) - 1}")
    return found


def _tables(place: str, form: str, quiet: bool) -> list[Record]:
    from search.deploy import dashboards
    from search.frontier import points as export
    from search.storage import files as storage
    from search.storage import ledger, results

    run = results.read(place)
    folder = storage.open_uri(place)
    exported = results.exported_points(place, run.record) is not None
    if form == "optuna":
        files = [dashboards.write_journal(run)]
        hint = f"; look at it with: optuna-dashboard {files[0]}"
    elif form == "mlflow":
        files = [f"MLflow experiment {dashboards.log_mlflow(run)}"]
        hint = ""
    elif form == "csv":
        tables = {"trials.csv": ledger.to_table(run.rows)}
        if exported:
            tables["frontier.csv"] = results.read_table(folder / "frontier.parquet")
        for name, table in tables.items():
            storage.write_atomic(folder / name, export.to_csv(table))
        files, hint = [str(folder / name) for name in tables], ""
    else:
        files = [str(ledger.Ledger(place).compact())]
        files += [str(folder / "frontier.parquet")] * exported
        hint = ""
    if not quiet:
        print(", ".join(files) + hint)
    return [{"file": name} for name in files]


def _show(done: Deployed, base: Deployed | None = None) -> str:
    share = f" ({done.bytes / base.bytes:.0%} of base)" if base else ""
    parts = [f"{done.bytes / 1e6:.3g} MB{share}"]
    for i, time in enumerate(done.latencies):
        ratio = f", {base.latencies[i].median_ms / time.median_ms:.2f}x" if base else ""
        parts.append(f"batch {time.batch}: {time.median_ms:.3g} ± {time.iqr_ms:.2g} ms{ratio}")
    return "; ".join([*parts, f"agrees to {done.deviation:.0e}"])


def _facts(done: Deployed) -> Record:
    times = {f"latency_ms_b{t.batch}": t.median_ms for t in done.latencies}
    times |= {f"latency_iqr_ms_b{t.batch}": t.iqr_ms for t in done.latencies}
    return {"bytes": done.bytes, "deviation": done.deviation} | times


def _nothing(text: str) -> None:
    pass
