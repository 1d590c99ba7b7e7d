"""INT8 files of points: static quantisation by ONNX Runtime, calibrated, scored and timed.

Weights per output channel, activations per tensor, as QuantizeLinear/DequantizeLinear pairs that
other runtimes read too. An INT8 file cannot agree with PyTorch to 1e-4, so it is judged by what
counts: its score on val (and on test, where the point has one) beside that of the float file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pruning.errors import UserError
from pruning.latency import INPUT, quiet
from pruning.models import files
from search import tasks
from search.config import loader
from search.deploy import latencies
from search.deploy import onnx as formats
from search.deploy.signature import names_in, nested
from search.pareto import TOP1, Metric
from search.storage import files as storage
from search.storage import results
from search.tasks import Workload
from search.trial import Latency, latency

FILE = "model-int8.onnx"
CALIBRATION = 512  # images: ranges of activations need fewer than covariances do
BATCH = 64


@dataclass(frozen=True)
class Quantised:
    """An INT8 file beside its float one. val, test: scores of (float, INT8), in `metric`."""

    place: str
    bytes: int
    val: tuple[float, float]
    test: tuple[float, float] | None
    latencies: tuple[Latency, ...]
    metric: Metric = TOP1

    @property
    def loss(self) -> float:
        """By how much the score on val is worse."""
        return self.metric.gain(self.val[0]) - self.metric.gain(self.val[1])


def read_task(record: Mapping[str, Any], *, trust: bool = False) -> Workload:
    """The task that a run was searched by. UserError where its data is no longer there.

    trust: the caller's consent to a package.module:factory; the record's own counts for nothing.
    """
    config = loader.from_dict(record["config"])
    model = replace(config.model, trust_factory=trust)
    config = replace(config, model=model)
    return tasks.open_task(tasks.load(config), config, "cpu")


def deploy(
    source: bytes,
    task: Workload,
    place: str | None,
    batches: Sequence[int] = (1,),
    *,
    tested: bool = False,
) -> Quantised:
    """Quantise a float ONNX file, score both, time the new one; only then write it to `place`.

    place None: nothing is left. tested: score the test split too, which is for a frontier's points
    alone. UserError where the runtime cannot quantise the network; no file then.
    """
    with tempfile.TemporaryDirectory(prefix="slimfront-") as scratch:
        whole, path = os.path.join(scratch, "float.onnx"), os.path.join(scratch, FILE)
        with open(whole, "wb") as file:
            file.write(source)
        _quantise(whole, path, _few(task.samples(BATCH).inputs))
        runs = formats.open_onnx(whole), formats.open_onnx(path)
        nets = [_Exported(run, formats.form_of(source)) for run in runs]
        val = _scores(nets, task, "val")
        test = _scores(nets, task, "test") if tested else None
        zeros = (np.zeros((batch, *task.about.shape), dtype=np.float32) for batch in batches)
        times = tuple(latency.of_call(partial(runs[1], x), len(x)) for x in zeros)
        size = os.path.getsize(path)
        if place is not None:
            with open(path, "rb") as file:
                files.write(place, file.read())
    return Quantised(place or "", size, val, test, times, task.metric)


def _quantise(source: str, target: str, batches: Iterable[Any]) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = f"{source}.prepared"
    try:
        with quiet():
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                _Reader(batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except Exception as error:  # whatever the quantiser meets in somebody's network
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"this network cannot be quantised: {first}; leave out --int8") from error
    _shorten(target)


class _Reader:
    """Calibration images as ONNX Runtime asks for them, one batch at a time."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches: Iterator[Any] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: _array(batch)}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if (found := self.get_next()) is None:
            raise StopIteration
        return found


def _shorten(path: str) -> None:
    """Short names for what is inside: in a small network they are a tenth of the file."""
    import onnx

    proto = onnx.load(path)
    graph = proto.graph
    outer = {each.name for each in (*graph.input, *graph.output)}
    names: dict[str, str] = {"": ""} | {name: name for name in outer}

    def short(name: str) -> str:
        return names.setdefault(name, f"t{len(names)}")

    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    for node in graph.node:
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
        node.name = ""
    graph.ClearField("value_info")
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


class _Exported(nn.Module):
    """An exported file in a network's place, so that the task scores it as any network."""

    def __init__(self, run: formats.Runner, form: Any) -> None:
        super().__init__()
        self.run, self.form = run, form

    def forward(self, x: torch.Tensor) -> Any:
        found = map(torch.from_numpy, self.run(_array(x)))
        return nested(self.form, dict(zip(names_in(self.form), found, strict=True)))


def _scores(nets: Iterable[nn.Module], task: Workload, split: str) -> tuple[float, float]:
    first, second = (task.score(net, split) for net in nets)
    return first, second


def _few(batches: Iterable[Any]) -> Iterator[torch.Tensor]:
    """About CALIBRATION images. UserError where the network does not take one tensor."""
    seen = 0
    for inputs in batches:
        if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
            raise UserError("INT8 is for networks that take one tensor of floats; leave out --int8")
        yield inputs
        seen += len(inputs)
        if seen >= CALIBRATION:
            return


def _array(x: torch.Tensor) -> np.ndarray:
    return x.float().cpu().contiguous().numpy()


def add_columns(place: str, measured: Mapping[int, Quantised]) -> None:
    """int8_bytes, int8_score_val, int8_score_test, int8_latency_ms_bN of points, by rank.

    They go into frontier.parquet and frontier.csv; points not measured now keep what they had.
    """
    table = results.read_table(storage.open_uri(place) / "frontier.parquet")
    rows = {rank: columns(done) for rank, done in measured.items()}
    ranks = table["rank"].to_pylist()
    for name in dict.fromkeys(name for row in rows.values() for name in row):
        known = name in table.column_names
        old = table[name].to_pylist() if known else [None] * len(ranks)
        values = [rows[r].get(name) if r in rows else v for r, v in zip(ranks, old, strict=True)]
        kind = pa.int64() if name == "int8_bytes" else pa.float64()
        table = table.drop_columns([name]) if known else table
        before = table.column_names.index("checkpoint")  # which stays last: it is the longest
        table = table.add_column(before, pa.field(name, kind), pa.array(values, kind))
    latencies.store(place, table)


def columns(done: Quantised) -> dict[str, Any]:
    """What the tables have of an INT8 file; bytes, fractions, milliseconds."""
    return {
        "int8_bytes": done.bytes,
        "int8_score_val": done.val[1],
        "int8_score_test": done.test[1] if done.test else None,
    } | {f"int8_latency_ms_b{each.batch}": each.median_ms for each in done.latencies}
