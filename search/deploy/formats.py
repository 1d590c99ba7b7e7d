"""The formats of deployed points: ONNX, in half precision too, OpenVINO, exported programs."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from pruning.errors import UserError
from pruning.models import ModelInfo
from search.deploy.onnx import TRACED, Format, Runner, open_onnx, write_onnx
from search.deploy.signature import Flat, Port, Signature

HALF = 2e-2  # of the largest output: half precision has three digits
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def get(name: str) -> Format:
    """The format of `--format`. UserError where its packages are missing."""
    kind = FORMATS[name]
    missing = [name for name in kind.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{kind.name} needs {', '.join(missing)}; pip install 'slimfront[{kind.extra}]' "
            "brings it"
        )
    return kind


def usage(kind: Format, info: ModelInfo, how: Signature) -> str:
    """A README.txt for a point's file: what goes in, and three lines that use it."""
    pixels = (
        f", pixels from 0 to 1, less the mean {list(info.mean)}, over the standard deviation "
        f"{list(info.std)}"
        if info.mean
        else ""
    )
    given = [f"input  {each}{pixels if i == 0 else ''}\n" for i, each in enumerate(how.inputs)]
    gives = [f"output {each}\n" for each in how.outputs]
    first = f"{kind.file}: {info.model}, slimmed by slimfront\n"
    return first + "".join([*given, *gives]) + f"\n{kind.use(how)}"


def _write_half(model: nn.Module, info: ModelInfo, how: Signature, path: str) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    write_onnx(model, info, how, path)
    half = OnnxModel(convert_float_to_float16(onnx.load(path), keep_io_types=True))
    half.topological_sort()  # the casts of input and output come last
    onnx.checker.check_model(half.model, full_check=True)
    onnx.save(half.model, path)


def _write_openvino(model: nn.Module, info: ModelInfo, how: Signature, path: str) -> None:
    import openvino

    source = f"{path}.onnx"
    write_onnx(model, info, how, source)
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    os.remove(source)


def _open_openvino(path: str) -> Runner:
    import openvino

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", threads)
    return lambda *arrays: [np.asarray(each) for each in compiled(list(arrays)).to_tuple()]


def _write_program(model: nn.Module, info: ModelInfo, how: Signature, path: str) -> None:
    batch = Dim("batch")
    shapes = tuple(None if each.shared else {0: batch} for each in how.arguments)
    net = model if how.plain else Flat(model, how.arguments)
    program = torch.export.export(
        net, tuple(how.zeros(TRACED)), dynamic_shapes=shapes if how.plain else (shapes,)
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    torch.export.save(program, path, extra_files={"info.json": info.to_json()})


def _open_program(path: str) -> Runner:
    module: Any = torch.export.load(path).module()

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            found = module(*map(torch.from_numpy, arrays))
        return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]

    return run


def _onnxruntime(file: str) -> Callable[[Signature], str]:
    def lines(how: Signature) -> str:
        given = ", ".join(f'"{each.name}": {each.name}' for each in how.inputs)
        gives = ", ".join(f'"{each.name}"' for each in how.outputs)
        one = "[0]" if len(how.outputs) == 1 else ""
        return (
            "import numpy, onnxruntime\n"
            f'session = onnxruntime.InferenceSession("{file}")\n'
            f"{_results(how)} = session.run([{gives}], {{{given}}}){one}\n"
        )

    return lines


def _openvino(how: Signature) -> str:
    given, one = _names(how.inputs), "[0]" if len(how.outputs) == 1 else ".to_tuple()"
    return (
        "import openvino\n"
        'model = openvino.Core().compile_model("model.xml", "CPU")\n'
        f"{_results(how)} = model([{given}]){one}\n"
    )


def _program(how: Signature) -> str:
    what = "a torch.Tensor" if len(how.outputs) == 1 else "torch.Tensors"
    one = "," if len(how.outputs) == 1 and not how.plain else ""
    return (
        "import torch\n"
        'model = torch.export.load("model.pt2").module()\n'
        f"{_results(how)}{one} = model({_names(how.inputs)})  # {what}\n"
    )


def _results(how: Signature) -> str:
    """Names that Python takes, whatever the network calls its outputs."""
    return ", ".join(re.sub(r"\W|^(?=\d)", "_", each.name) for each in how.outputs)


def _names(ports: Iterable[Port]) -> str:
    return ", ".join(each.name for each in ports)


FORMATS = {
    kind.name: kind
    for kind in (
        Format(
            "onnx",
            "model.onnx",
            write_onnx,
            open_onnx,
            packages=ONNX_PACKAGES,
            extra="export",
            use=_onnxruntime("model.onnx"),
        ),
        Format(
            "onnx-fp16",
            "model-fp16.onnx",
            _write_half,
            open_onnx,
            packages=ONNX_PACKAGES,
            extra="export",
            tolerance=HALF,
            use=_onnxruntime("model-fp16.onnx"),
        ),
        Format(
            "openvino",
            "model.xml",
            _write_openvino,
            _open_openvino,
            packages=("openvino", *ONNX_PACKAGES),
            extra="openvino",
            beside=("model.bin",),
            use=_openvino,
        ),
        Format(
            "torch-export",
            "model.pt2",
            _write_program,
            _open_program,
            use=_program,
        ),
    )
}
