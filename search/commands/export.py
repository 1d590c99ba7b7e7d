"""`slimfront export`: points as models to deploy, tables, latencies, files for dashboards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from pruning.errors import UserError
from search.config import Parser
from search.frontier import select

Record = dict[str, Any]
WRITING = ("onnx", "onnx-fp16", "openvino", "torch-export")  # formats that take minutes to make


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Args:
        format: onnx, onnx-fp16 (half precision), openvino and torch-export write each point's
            file beside its model.safetensors, once its outputs agree with PyTorch's to 1e-4 (half
            precision: 2e-2), and a README.txt on its use; csv and parquet write the tables of
            frontier and trials; optuna writes RUN/optuna.journal for optuna-dashboard; mlflow logs
            the trials at MLFLOW_TRACKING_URI.
        point: Rank of the one point to export; null exports all, or the one that --at-most,
            --at-least or --knee choose.
        batch: Batch sizes of the latencies that are measured.
        device: Where --latency measures: cpu, cuda, or auto (the GPU if there is one, which
            nothing else should use meanwhile).
        int8_tolerance: What an --int8 file's accuracy on val may lose before it is said, as a
            share (0.01 is one point).
        trust_factory: Allow package.module:factory, which runs that package's code (true or false).
    """

    format: (
        Literal[
            "csv", "parquet", "onnx", "onnx-fp16", "openvino", "torch-export", "optuna", "mlflow"
        ]
        | None
    ) = None
    point: int | None = None
    batch: tuple[int, ...] = (1, 64)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    int8_tolerance: float = 0.01
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
    parser.add_argument(
        "--int8",
        action="store_true",
        help="with --format onnx: also model-int8.onnx, calibrated and scored on the run's images",
    )
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
    if found["int8"] and options.format != "onnx":
        raise UserError("--int8 belongs to --format onnx; add it, or leave out --int8")
    written: list[Record] = []
    if found["latency"] or options.format in WRITING:
        from search.storage import files as storage
        from search.storage import results

        results.read_record(found["run"])
        storage.check_writable(storage.open_uri(found["run"]))
    if found["latency"]:
        written += _latency(found["run"], options, quiet=found["json"])
    if options.format in WRITING:
        written += _models(found["run"], options, chosen, dict(found.items()))
    elif options.format is not None:
        written += _tables(found["run"], options.format, quiet=found["json"])
    if found["json"]:
        print(json.dumps({"run": found["run"], "written": written}, indent=1, allow_nan=False))


def _latency(place: str, options: ExportOptions, quiet: bool) -> list[Record]:
    from pruning.latency import describe_device, device_of
    from search.deploy import latencies

    device = device_of(options.device)
    say = _nothing if quiet else print
    say(f"on {describe_device(device)}, PyTorch {latencies.DTYPE}")
    table = latencies.measure(place, options.batch, device, trust=options.trust_factory, say=say)
    names = [name for name in table.column_names if name.startswith(latencies.PREFIX)]
    say(f"frontier.parquet and frontier.csv have them; slimfront report {place} draws them")
    return [{"file": "frontier.parquet", "latencies": table.select(["rank", *names]).to_pylist()}]


def _models(
    place: str, options: ExportOptions, chosen: select.ChooseOptions, found: Mapping[str, Any]
) -> list[Record]:
    from search.deploy import exports, formats

    say = _nothing if found["json"] else print
    kind = formats.get(str(options.format))
    points = _selected(place, options.point, chosen)
    trust, batches = options.trust_factory, options.batch
    written = exports.models(place, kind, points, batches, trust=trust, say=say)
    if found["int8"]:
        lost = options.int8_tolerance
        written += exports.quantised(
            place, points, written, batches, tolerance=lost, trust=trust, say=say
        )
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
        tables = {"trials.csv": ledger.Ledger(place).to_table(run.rows)}
        if exported:
            tables["frontier.csv"] = results.read_table(folder / "frontier.parquet")
        for name, table in tables.items():
            storage.write(folder / name, export.to_csv(table))
        files, hint = [str(folder / name) for name in tables], ""
    else:
        files = [str(ledger.Ledger(place).compact())]
        files += [str(folder / "frontier.parquet")] * exported
        hint = ""
    if not quiet:
        print(", ".join(files) + hint)
    return [{"file": name} for name in files]


def _nothing(text: str) -> None:
    pass
