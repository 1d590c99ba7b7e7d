"""The formats of deployed points: ONNX, in half precision too, OpenVINO, exported programs."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from pruning.errors import UserError
from pruning.latency import INPUT, OUTPUT
from pruning.models import ModelInfo
from search.deploy.onnx import Format, Runner, example, open_onnx, write_onnx

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


def usage(kind: Format, info: ModelInfo) -> str:
    """A README.txt for a point's file: what goes in, and three lines that use it."""
    shape = ", ".join(map(str, info.input_shape))
    numbers = info.outputs or "…"
    return (
        f"{kind.file}: {info.model}, slimmed by slimfront\n"
        f"input  {INPUT}: float32 [batch, {shape}], pixels from 0 to 1, less the mean "
        f"{list(info.mean)}, over the standard deviation {list(info.std)}\n"
        f"output {OUTPUT}: float32 [batch, {numbers}]\n\n{kind.use}"
    )


def _write_half(model: nn.Module, info: ModelInfo, path: str) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    write_onnx(model, info, path)
    half = OnnxModel(convert_float_to_float16(onnx.load(path), keep_io_types=True))
    half.topological_sort()  # the casts of input and output come last
    onnx.checker.check_model(half.model, full_check=True)
    onnx.save(half.model, path)


def _write_openvino(model: nn.Module, info: ModelInfo, path: str) -> None:
    import openvino

    source = f"{path}.onnx"
    write_onnx(model, info, source)
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    os.remove(source)


def _open_openvino(path: str) -> Runner:
    import openvino

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", threads)
    return lambda images: np.asarray(compiled([images])[0])


def _write_program(model: nn.Module, info: ModelInfo, path: str) -> None:
    shapes = ({0: Dim("batch")},)
    program = torch.export.export(model, (example(info),), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    torch.export.save(program, path, extra_files={"info.json": info.to_json()})


def _open_program(path: str) -> Runner:
    module: Any = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: Tensor = module(torch.from_numpy(images))
        return logits.numpy()

    return run


def _onnxruntime(file: str) -> str:
    return (
        "import numpy, onnxruntime\n"
        f'session = onnxruntime.InferenceSession("{file}")\n'
        f'logits = session.run(["{OUTPUT}"], {{"{INPUT}": images}})[0]\n'
    )


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
            use=(
                "import openvino\n"
                'model = openvino.Core().compile_model("model.xml", "CPU")\n'
                "logits = model([images])[0]\n"
            ),
        ),
        Format(
            "torch-export",
            "model.pt2",
            _write_program,
            _open_program,
            use=(
                "import torch\n"
                'model = torch.export.load("model.pt2").module()\n'
                "logits = model(images)  # a torch.Tensor\n"
            ),
        ),
    )
}
