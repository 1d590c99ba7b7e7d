"""Points as files to deploy, each run and compared before it gets its name; ONNX among them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.latency import INPUT, OUTPUT, exported, quiet
from pruning.models import ModelInfo, files
from search.trial import Latency, latency

TOLERANCE = 1e-4  # of the largest output
BATCHES = (1, 3)  # neither is the batch of the tracing
TRACED = 2

Runner = Callable[[np.ndarray], np.ndarray]
"""Outputs float [N, …] of normalised images float [N, C, H, W], by the exported file."""


@dataclass(frozen=True)
class Format:
    """How a model becomes a file, and how that file is run."""

    name: str
    file: str
    write: Callable[[nn.Module, ModelInfo, str], None]
    open: Callable[[str], Runner]
    packages: tuple[str, ...] = ()
    extra: str = ""  # of slimfront, which brings the packages
    tolerance: float = TOLERANCE  # of the largest output
    beside: tuple[str, ...] = ()  # further files that belong to the first
    use: str = ""  # three lines of Python: the file to logits


@dataclass(frozen=True)
class Deployed:
    """A file that agrees with its model. `deviation`: largest, as a share of the largest output."""

    place: str
    bytes: int
    deviation: float
    latencies: tuple[Latency, ...]


def deploy(
    model: nn.Module,
    info: ModelInfo,
    kind: Format,
    folder: str | None,
    batches: tuple[int, ...] = (1,),
) -> Deployed:
    """Export a model in eval mode on the CPU, compare, measure; only then write it to `folder`.

    `folder` None: nothing is left, only measured. Batch size stays free. UserError where the model
    cannot be exported or the file's outputs differ by more than its tolerance; no file then.
    """
    with tempfile.TemporaryDirectory(prefix="slimfront-") as scratch:
        path = os.path.join(scratch, kind.file)
        with quiet():
            _write(kind, model, info, path)
            run = kind.open(path)
        deviation = compare(model, run, info.input_shape)
        if not deviation <= kind.tolerance:
            raise UserError(
                f"{kind.name} of {info.model} differs from PyTorch by {deviation:.1e} of the "
                f"largest output, more than {kind.tolerance:.0e}; nothing was written, try another "
                "--format"
            )
        times = tuple(time(run, info.input_shape, batch) for batch in batches)
        made = [path, *(os.path.join(scratch, name) for name in kind.beside)]
        size = sum(map(os.path.getsize, made))
        if folder is not None:
            for each in reversed(made):  # the one that is asked for is there last
                with open(each, "rb") as file:
                    files.write(files.join(folder, os.path.basename(each)), file.read())
    place = "" if folder is None else files.join(folder, kind.file)
    return Deployed(place, size, deviation, times)


def compare(model: nn.Module, run: Runner, shape: tuple[int, ...]) -> float:
    """Largest difference over random images, as a share of the largest output; NaN if one is."""
    worst = 0.0
    for batch in BATCHES:
        generator = torch.Generator().manual_seed(batch)
        images = torch.randn(batch, *shape, generator=generator)
        with torch.inference_mode():
            wanted = model(images).numpy()
        found = run(images.numpy())
        if found.shape != wanted.shape:
            return float("nan")
        scale = max(float(np.abs(wanted).max()), 1e-12)
        # np.maximum, unlike max, keeps NaN
        worst = float(np.maximum(worst, np.abs(found - wanted).max() / scale))
    return worst


def _write(kind: Format, model: nn.Module, info: ModelInfo, path: str) -> None:
    try:
        kind.write(model, info, path)
    except Exception as error:  # whatever the exporter meets in somebody's network
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{info.model} cannot be exported as {kind.name}: {first}; try another --format"
        ) from error


def write_onnx(model: nn.Module, info: ModelInfo, path: str) -> None:
    import onnx

    proto = exported(model, (example(info),))
    _forget_origin(proto.graph)
    for key, value in asdict(info).items():
        # what a deployer needs beside the weights: normalisation above all
        proto.metadata_props.add(key=key, value=value if key == "model" else json.dumps(value))
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _forget_origin(graph: Any) -> None:
    """Drop the exporter's stack traces: half the file, and the paths of this machine."""
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")


def open_onnx(path: str) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([OUTPUT], {INPUT: images})[0])


def example(info: ModelInfo) -> Tensor:
    return torch.zeros(TRACED, *info.input_shape)


def time(run: Runner, shape: tuple[int, ...], batch: int) -> Latency:
    images = np.zeros((batch, *shape), dtype=np.float32)
    return latency.of_call(lambda: run(images), batch)
