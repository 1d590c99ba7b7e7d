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
from torch import nn

from pruning.errors import UserError
from pruning.latency import OUTPUT, exported, quiet
from pruning.models import ModelInfo, files
from search.deploy.signature import Flat, Signature, signature
from search.trial import Latency, latency

TOLERANCE = 1e-4  # of the largest output
BATCHES = (1, 3)  # neither is the batch of the tracing
TRACED = 2
MOST = 200  # characters of an exporter's words
OUTPUTS = "outputs"  # of the metadata of an ONNX file

Runner = Callable[..., list[np.ndarray]]
"""run(*inputs) → outputs of the exported file, both in the order of its signature."""


@dataclass(frozen=True)
class Format:
    """How a model becomes a file, and how that file is run."""

    name: str
    file: str
    write: Callable[[nn.Module, ModelInfo, Signature, str], None]
    open: Callable[[str], Runner]
    packages: tuple[str, ...] = ()
    extra: str = ""  # of slimfront, which brings the packages
    tolerance: float = TOLERANCE  # of the largest output
    beside: tuple[str, ...] = ()  # further files that belong to the first
    use: Callable[[Signature], str] = lambda how: ""  # three lines of Python: the file to outputs


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
    how = signature(model, info)
    with tempfile.TemporaryDirectory(prefix="slimfront-") as scratch:
        path = os.path.join(scratch, kind.file)
        with quiet():
            _write(kind, model, info, how, path)
            run = kind.open(path)
        deviation = compare(model, run, how)
        if not deviation <= kind.tolerance:
            raise UserError(
                f"{kind.name} of {info.model} differs from PyTorch by {deviation:.1e} of the "
                f"largest output, more than {kind.tolerance:.0e}; nothing was written, try another "
                "--format"
            )
        times = tuple(time(run, how, batch) for batch in batches)
        made = [path, *(os.path.join(scratch, name) for name in kind.beside)]
        size = sum(map(os.path.getsize, made))
        if folder is not None:
            for each in reversed(made):  # the one that is asked for is there last
                with open(each, "rb") as file:
                    files.write(files.join(folder, os.path.basename(each)), file.read())
    place = "" if folder is None else files.join(folder, kind.file)
    return Deployed(place, size, deviation, times)


def compare(model: nn.Module, run: Runner, how: Signature) -> float:
    """Largest difference over random inputs, as a share of an output's largest; NaN if one is."""
    worst, flat = 0.0, Flat(model, how.arguments)
    for batch in BATCHES:
        tensors = how.random(batch)
        with torch.inference_mode():
            wanted = [each.double().numpy() for each in flat(*tensors)]
        found = run(*(each.numpy() for each in tensors))
        if [each.shape for each in found] != [each.shape for each in wanted]:
            return float("nan")
        for ours, theirs in zip(wanted, found, strict=True):
            scale = max(float(np.abs(ours).max(initial=0)), 1e-12)
            off = np.abs(theirs.astype(np.float64) - ours).max(initial=0)
            worst = float(np.maximum(worst, off / scale))  # which, unlike max, keeps NaN
    return worst


def _write(kind: Format, model: nn.Module, info: ModelInfo, how: Signature, path: str) -> None:
    try:
        kind.write(model, info, how, path)
    except Exception as error:  # whatever the exporter meets in somebody's network
        raise UserError(
            f"{info.model} cannot be exported as {kind.name}: {_reason(error)}; try another "
            "--format"
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of what an exporter met: it wraps that in advice for its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), "")[:MOST] or type(error).__name__


def write_onnx(model: nn.Module, info: ModelInfo, how: Signature, path: str) -> None:
    import onnx

    proto = exported(
        model if how.plain else Flat(model, how.arguments),
        tuple(how.zeros(TRACED)),
        [each.name for each in how.inputs],
        [each.name for each in how.outputs],
        [each.shared for each in how.arguments],
    )
    _forget_origin(proto.graph)
    for key, value in (asdict(info) | {OUTPUTS: how.form}).items():
        # what a deployer needs beside the weights: normalisation above all
        proto.metadata_props.add(key=key, value=value if key == "model" else json.dumps(value))
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def form_of(source: bytes) -> Any:
    """How the network of an ONNX file nests its outputs, as the file says."""
    import onnx

    facts = {each.key: each.value for each in onnx.load_from_string(source).metadata_props}
    return json.loads(facts.get(OUTPUTS, f'"{OUTPUT}"'))


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
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: [
        np.asarray(each) for each in session.run(None, dict(zip(names, arrays, strict=True)))
    ]


def time(run: Runner, how: Signature, batch: int) -> Latency:
    arrays = [each.numpy() for each in how.zeros(batch)]
    return latency.of_call(lambda: run(*arrays), batch)
