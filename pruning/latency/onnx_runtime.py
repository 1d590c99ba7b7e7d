"""ONNX Runtime on the CPU: layers as one-node graphs, slim networks by changing the weights."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pruning.errors import UserError
from pruning.latency.calls import LayerCall
from pruning.latency.devices import describe_device
from pruning.latency.runtimes import LAYER_S, NETWORK_S, is_shape
from pruning.latency.timing import Timing, alone, measure

INPUT, OUTPUT = "images", "logits"
OPSET, IR = 18, 10


class OnnxRuntime:
    """ONNX Runtime's CPU provider with as many threads as torch has here; float32."""

    name = "onnxruntime"

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{error.name} is missing: pip install 'slimfront[export]', or use torch"
            ) from None
        self.onnx, self.runtime = onnx, onnxruntime
        self._template: Any = None

    def describe(self) -> str:
        return f"onnxruntime {self.runtime.__version__} float32, {describe_device('cpu')}"

    def layer(self, layer: LayerCall, rows: int, columns: int) -> float:
        shape = layer.input_shape(rows, columns, self.batch)
        session = self._open(self._one_layer(layer, rows, columns, shape))
        x = np.zeros(shape, dtype=np.float32)
        with alone("cpu"):
            return measure(lambda: session.run([OUTPUT], {INPUT: x}), LAYER_S).median_ms

    def network(self, model: nn.Module, example: Any) -> Timing:
        if not is_shape(example):
            raise UserError(
                "ONNX Runtime is timed with networks of one tensor only; choose the runtime torch"
            )
        session = self._session(model.eval(), example)
        x = np.zeros((self.batch, *example), dtype=np.float32)
        with alone("cpu"):
            return measure(lambda: session.run(None, {INPUT: x}), NETWORK_S)

    def _session(self, model: nn.Module, shape: tuple[int, ...]) -> Any:
        """Export the first network; later ones are the same graph with tensors of their sizes.

        An export takes seconds, and a time depends on sizes alone. A graph that has numbers of
        channels in it besides does not run so, and is exported.
        """
        if self._template is not None:
            with contextlib.suppress(Exception):  # whatever the runtime has to say of its sizes
                session = self._open(resized(self._template, model))
                session.run(None, {INPUT: np.zeros((self.batch, *shape), dtype=np.float32)})
                return session
        self._template = exported(model, (torch.zeros(2, *shape),))
        return self._open(self._template)

    def _open(self, proto: Any) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what it does not run is exported anew
        return self.runtime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _one_layer(self, call: LayerCall, rows: int, columns: int, shape: tuple[int, ...]) -> Any:
        """The layer with a bias and a ReLU, which the runtime computes in the same kernel."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        how = call.filter
        weight = np.zeros((rows, columns, *how.kernel), dtype=np.float32)
        if how.kernel:
            layer = helper.make_node(
                "Conv",
                [INPUT, "weight", "bias"],
                ["y"],
                kernel_shape=how.kernel,
                strides=how.stride,
                dilations=how.dilation,
                group=call.groups(rows),
                **_padding(how.padding),
            )
        else:
            layer = helper.make_node("Gemm", [INPUT, "weight", "bias"], ["y"], transB=1)
        float32 = self.onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [layer, helper.make_node("Relu", ["y"], [OUTPUT])],
            "layer",
            [helper.make_tensor_value_info(INPUT, float32, shape)],
            [helper.make_tensor_value_info(OUTPUT, float32, None)],
            [
                numpy_helper.from_array(weight, "weight"),
                numpy_helper.from_array(np.zeros(rows, dtype=np.float32), "bias"),
            ],
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR)


def _padding(padding: tuple[int, ...] | str) -> dict[str, Any]:
    if isinstance(padding, str):
        return {"auto_pad": "SAME_UPPER" if padding == "same" else "VALID"}
    return {"pads": (*padding, *padding)}


def exported(
    model: nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: Sequence[str] = (INPUT,),
    outputs: Sequence[str] = (OUTPUT,),
    shared: Sequence[bool] = (False,),
) -> Any:
    """ONNX of a network in evaluation mode, its batch left open; torch's exporter kept quiet.

    shared: of each input, whether it is one for all images of a batch.
    """
    from torch.export import Dim

    batch = Dim("batch")
    shapes = tuple(None if whole else {0: batch} for whole in shared)
    several = any(each.kind == each.VAR_POSITIONAL for each in parameters(model.forward))
    with quiet():
        program = torch.onnx.export(
            model,
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(shapes,) if several else shapes,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def parameters(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    return inspect.signature(function).parameters.values()


def resized(template: Any, model: nn.Module) -> Any:
    """The exported graph of a wider network with the sizes of `model`'s tensors, all zeros.

    Groups of convolutions follow their weights; flattening takes whatever is there.
    """
    from onnx import helper, numpy_helper

    proto = type(template)()
    proto.CopyFrom(template)
    proto.graph.ClearField("value_info")
    sizes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        first = tensors.get(node.input[1]) if len(node.input) > 1 else None
        if first is None:
            continue
        if node.op_type == "Conv" and first.name in sizes:
            for attribute in node.attribute:
                if attribute.name == "group" and attribute.i > 1:
                    attribute.i = attribute.i * sizes[first.name][0] // first.dims[0]
        if node.op_type == "Reshape" and tuple(first.dims) == (2,):  # its target has numbers
            node.CopyFrom(helper.make_node("Flatten", node.input[:1], node.output, axis=1))
    for name, tensor in tensors.items():
        if name in sizes and tuple(tensor.dims) != sizes[name]:
            zeros = np.zeros(sizes[name], numpy_helper.to_array(tensor).dtype)
            tensor.CopyFrom(numpy_helper.from_array(zeros, name))
    return proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters' progress and remarks are not for the user; errors still pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
