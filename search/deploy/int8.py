"""INT8 files of points: static quantisation by ONNX Runtime, calibrated, scored and timed.

Weights per output channel, activations per tensor, as QuantizeLinear/DequantizeLinear pairs that
other runtimes read too. An INT8 file cannot agree with PyTorch to 1e-4, so it is judged by what
counts: its score on val (and on test, where the point has one) beside that of the float file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pruning.data import Batches, Images
from pruning.errors import UserError
from pruning.models import files
from search.config import loader
from search.data import splits
from search.deploy import latencies
from search.deploy import onnx as formats
from search.storage import files as storage
from search.storage import results
from search.trial import Latency, base_model

FILE = "model-int8.onnx"
CALIBRATION = 512  # images: ranges of activations need fewer than covariances do
BATCH = 64


@dataclass(frozen=True)
class Data:
    """A run's images for quantisation: those that calibrate and those that judge."""

    calibration: Images
    val: Images
    test: Images


@dataclass(frozen=True)
class Quantised:
    """An INT8 file beside its float one. val, test: fractions, of (float, INT8)."""

    place: str
    bytes: int
    val: tuple[float, float]
    test: tuple[float, float] | None
    latencies: tuple[Latency, ...]

    @property
    def loss(self) -> float:
        """What the score on val falls by, a fraction."""
        return self.val[0] - self.val[1]


def read_data(record: Mapping[str, Any]) -> Data:
    """The images that a run was searched on. UserError where they are no longer there."""
    config = loader.from_dict(record["config"])
    found = splits.load(config.data, config.seed)
    few = base_model.calibration(found.train, config.seed)
    few = few.subset(np.arange(min(CALIBRATION, len(few))))
    return Data(few, found.val, found.test)


def deploy(
    source: bytes,
    data: Data,
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
        _quantise(whole, path, data.calibration.batches(BATCH))
        runs = formats.open_onnx(whole), formats.open_onnx(path)
        val = _scores(runs, data.val)
        test = _scores(runs, data.test) if tested else None
        images = data.val.shape
        times = tuple(formats.time(runs[1], images, batch) for batch in batches)
        size = os.path.getsize(path)
        if place is not None:
            with open(path, "rb") as file:
                files.write(place, file.read())
    return Quantised(place or "", size, val, test, times)


def _quantise(source: str, target: str, batches: Batches) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = f"{source}.prepared"
    try:
        with formats.quiet():
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

    def __init__(self, batches: Batches) -> None:
        self._batches: Iterator[Any] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {formats.INPUT: _array(batch[0])}

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


def _scores(runs: Iterable[formats.Runner], images: Images) -> tuple[float, float]:
    first, second = (_score(run, images) for run in runs)
    return first, second


def _score(run: formats.Runner, images: Images) -> float:
    """Top-1, a fraction, by an exported file."""
    right = 0
    for x, y in images.batches(BATCH):
        right += int((run(_array(x)).argmax(1) == y.cpu().numpy()).sum())
    return right / len(images)


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
