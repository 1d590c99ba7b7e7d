"""A run's points as files to deploy, one after the other, with what is said of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pruning.models import checkpoint
from pruning.models import files as uri
from search.config import human
from search.deploy import formats, int8, onnx
from search.deploy.int8 import Quantised
from search.deploy.onnx import Deployed
from search.deploy.signature import signature
from search.pareto import Metric
from search.storage import results

Record = dict[str, Any]
Say = Callable[[str], None]


def models(
    place: str,
    kind: onnx.Format,
    points: Sequence[results.Point],
    batches: tuple[int, ...],
    *,
    trust: bool,
    say: Say,
) -> list[Record]:
    """Export points one after the other; a file that is there agrees with its model."""
    path = results.base_checkpoint(place)
    base = checkpoint.load(path, trust=trust)
    whole = onnx.deploy(base, checkpoint.info(path), kind, None, batches)
    say(f"base model as {kind.name}: {_show(whole)}")
    written: list[Record] = [{"point": None, "file": None} | _facts(whole)]
    for point in points:
        rank = int(point["rank"])
        source = results.point_checkpoint(place, rank)
        model, info = checkpoint.load(source, trust=trust), checkpoint.info(source)
        folder = uri.join(place, "points", f"{rank:03d}")
        done = onnx.deploy(model, info, kind, folder, batches)
        said = formats.usage(kind, info, signature(model, info))
        uri.write(uri.join(folder, "README.txt"), said.encode())
        say(f"point {rank}, {human(point['macs'])} MACs: {_show(done, whole)}\n  {done.place}")
        written.append({"point": rank, "file": done.place} | _facts(done))
    return written


def quantised(
    place: str,
    points: Sequence[results.Point],
    models: Sequence[Record],
    batches: tuple[int, ...],
    *,
    tolerance: float,
    trust: bool,
    say: Say,
) -> list[Record]:
    """INT8 files beside float ONNX files just written, and their columns in the frontier."""
    task = int8.read_task(results.read_record(place), trust=trust)
    metric = task.metric
    tested = {int(point["rank"]) for point in points if _has_test(point)}
    done: dict[int, int8.Quantised] = {}
    for model in models:
        if (rank := model["point"]) is None:
            continue
        target = uri.join(place, "points", f"{rank:03d}", int8.FILE)
        made = int8.deploy(uri.read(model["file"]), task, target, batches, tested=rank in tested)
        done[rank] = made
        say(f"point {rank} as INT8: {_show_int8(made, model)}\n  {target}")
        if made.loss > tolerance:
            say(
                f"point {rank} loses {metric.change(made.loss).lstrip('+')} on val as INT8, "
                f"more than --int8-tolerance {tolerance:g}: deploy its float file instead"
            )
    int8.add_columns(place, done)
    return [{"point": rank, "file": made.place} | int8.columns(made) for rank, made in done.items()]


def _has_test(point: Record) -> bool:
    return point.get("score_test_mean") is not None


def _show(done: Deployed, base: Deployed | None = None) -> str:
    share = f" ({done.bytes / base.bytes:.0%} of base)" if base else ""
    parts = [f"{done.bytes / 1e6:.3g} MB{share}"]
    for i, time in enumerate(done.latencies):
        ratio = f", {base.latencies[i].median_ms / time.median_ms:.2f}x" if base else ""
        parts.append(f"batch {time.batch}: {time.median_ms:.3g} ± {time.iqr_ms:.2g} ms{ratio}")
    return "; ".join([*parts, f"agrees to {done.deviation:.0e}"])


def _show_int8(done: Quantised, whole: Record) -> str:
    parts = [
        f"{done.bytes / 1e6:.3g} MB ({whole['bytes'] / done.bytes:.2f}x smaller)",
        _beside("val", done.val, done.metric),
    ]
    if done.test:
        parts.append(_beside("test", done.test, done.metric))
    for time in done.latencies:
        ratio = whole[f"latency_ms_b{time.batch}"] / time.median_ms
        parts.append(f"batch {time.batch}: {time.median_ms:.3g} ms, {ratio:.2f}x")
    return "; ".join(parts)


def _beside(split: str, scores: tuple[float, float], metric: Metric) -> str:
    """ "val 93.21% (-0.12 points)": the INT8 file, and its distance from the float one."""
    return f"{split} {metric.show(scores[1])} ({metric.change(scores[1] - scores[0])})"


def _facts(done: Deployed) -> Record:
    times = {f"latency_ms_b{t.batch}": t.median_ms for t in done.latencies}
    times |= {f"latency_iqr_ms_b{t.batch}": t.iqr_ms for t in done.latencies}
    return {"bytes": done.bytes, "deviation": done.deviation} | times
