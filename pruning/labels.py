"""Channel labels on their way through a forward pass: what each operation does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pruning.graph import Layer

FIXED = 0
Key = tuple[str, int]

ELEMENTWISE = set(
    """add radd iadd sub rsub isub mul rmul imul div truediv rtruediv itruediv neg pow sqrt rsqrt
    square exp abs relu relu6 hardtanh sigmoid hardsigmoid logsigmoid hardswish silu mish gelu elu
    selu celu leaky_relu softplus softsign tanh clamp clamp_min clamp_max dropout dropout1d
    dropout2d dropout3d alpha_dropout feature_alpha_dropout maximum minimum""".split()
)
SPATIAL = set(
    """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d lp_pool2d
    interpolate upsample instance_norm""".split()
)
REDUCE = {"mean", "sum", "amax", "amin", "std", "var"}
MOVE = set(
    """flatten reshape view permute transpose squeeze unsqueeze cat concat concatenate chunk split
    getitem expand contiguous clone detach to float half bfloat16 type_as movedim swapaxes swapdims
    t unbind stack narrow select roll channel_shuffle pixel_shuffle pixel_unshuffle""".split()
)


class Recorder(TorchFunctionMode):
    """Collects labels, ties and layers while a forward pass runs under it."""

    def __init__(self, state: dict[str, Tensor], parameters: frozenset[str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.names = {id(tensor): name for name, tensor in state.items()}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self.axes: dict[Key, Tensor] = {}
        self.layers: list[Layer] = []
        self.count = 1
        self.ties: list[tuple[Tensor, Tensor]] = []
        self.fixes: list[tuple[Tensor, str]] = []

    # --- labels -------------------------------------------------------------------------------

    def start(self, images: Tensor) -> None:
        images.labels = torch.zeros((), dtype=torch.int64).expand(images.shape)  # type: ignore[attr-defined]

    def tie(self, a: Tensor, b: Tensor) -> None:
        self.ties.append((a.reshape(-1), b.reshape(-1)))

    def fix(self, tensor: Tensor, reason: str) -> None:
        if (labels := _labels(tensor)) is not None:
            self.fixes.append((labels.unique(), reason))

    def fix_producer(self, name: str, reason: str) -> None:
        layer = next(layer for layer in self.layers if layer.name == name.partition("#")[0])
        self.fixes.append((self.axes[layer.weight, 0], reason))

    def axis(self, name: str, axis: int) -> Tensor:
        """Labels of one parameter axis, fresh ones at first sight; int64 [size]."""
        if (name, axis) not in self.axes:
            size = self.shapes[name][axis]
            self.axes[name, axis] = torch.arange(self.count, self.count + size)
            self.count += size
        return self.axes[name, axis]

    def along(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Labels along one dimension, int64 [size], where all others agree; else None."""
        labels = _labels(tensor)
        if labels is None:
            return torch.zeros(tensor.shape[dim], dtype=torch.int64)
        rows = labels.movedim(dim, 0).flatten(1)
        return rows[:, 0].clone() if bool((rows == rows[:, :1]).all()) else None

    # --- operations ---------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [t for t in tensors_in((args, kwargs)) if _labels(t) is not None]
        before = [_labels(t) for t in inputs]
        out = func(*args, **kwargs)
        results = list(tensors_in(out))
        if not results or (not inputs and not self._reads_parameter(args, kwargs)):
            return out
        name = getattr(func, "__name__", "").strip("_")
        if not self._understood(name, out, args, kwargs):
            for tensor, labels in zip(inputs, before, strict=True):
                tensor.labels = labels  # type: ignore[attr-defined]
                self.fix(tensor, f"passes through {name or func}")
            for result in results:
                self.start(result)
        return out

    def _reads_parameter(self, args: Any, kwargs: Any) -> bool:
        return any(id(tensor) in self.names for tensor in tensors_in((args, kwargs)))

    def _understood(self, name: str, out: Any, args: Any, kwargs: Any) -> bool:
        handler = self._handler(name)
        try:
            return handler is not None and handler(out, *args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False  # a call of a form not foreseen costs its own channels only

    def _handler(self, name: str) -> Any:
        if name in ELEMENTWISE:
            return self._elementwise
        if name in SPATIAL:
            return self._spatial
        if name in REDUCE:
            return lambda out, x, *a, **k: self._reduce(out, x)
        if name in MOVE:
            return lambda out, *a, **k: self._move(name, out, a, k)
        return {
            "conv1d": self._conv,
            "conv2d": self._conv,
            "conv3d": self._conv,
            "linear": self._linear,
            "batch_norm": self._batch_norm,
            "prelu": self._prelu,
            "pad": self._pad,
        }.get(name)

    def _layer(
        self, kind: str, weight: Tensor, bias: Tensor | None, groups: int, positions: int
    ) -> str:
        name = self.names[id(weight)]
        bias_name = None if bias is None else self.names.get(id(bias))
        shape = self.shapes[name]
        kernel = int(np.prod(shape[2:], dtype=np.int64))
        module = name.rpartition(".")[0]
        self.layers.append(Layer(module, kind, name, bias_name, groups, kernel, positions))
        if bias_name:
            self._attach(bias_name, 0, self.axis(name, 0))
        return name

    def _attach(self, name: str, axis: int, labels: Tensor) -> None:
        if (name, axis) in self.axes:
            self.tie(self.axes[name, axis], labels)
        else:
            self.axes[name, axis] = labels

    def _conv(
        self,
        out: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> bool:
        if id(weight) not in self.names:
            return False
        dim = out.ndim - weight.ndim + 1
        name = self._layer("conv", weight, bias, groups, int(np.prod(out.shape[dim + 1 :])))
        labels, produced = self.along(input, dim), self.axis(name, 0)
        if labels is None:
            self.fix(input, "channels differ over the image")
            labels = torch.zeros(input.shape[dim], dtype=torch.int64)
        if groups == 1:
            self._attach(name, 1, labels)
        else:
            # a block of a grouped convolution goes as a whole, input and output channels alike
            inside, outside = labels.view(groups, -1), produced.view(groups, -1)
            self.tie(inside, inside[:, :1].expand_as(inside))
            self.tie(outside, inside[:, :1].expand_as(outside))
            self._attach(name, 1, torch.zeros(weight.shape[1], dtype=torch.int64))
        _spread(out, produced, dim)
        return True

    def _linear(
        self, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> bool:
        if id(weight) not in self.names:
            return False
        name = self._layer("linear", weight, bias, 1, int(np.prod(out.shape[1:-1])))
        labels = self.along(input, input.ndim - 1)
        if labels is None:
            self.fix(input, "channels are not the last dimension of a linear layer's input")
            labels = torch.zeros(input.shape[-1], dtype=torch.int64)
        self._attach(name, 1, labels)
        _spread(out, self.axis(name, 0), out.ndim - 1)
        return True

    def _batch_norm(self, out: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> bool:
        labels = self.along(input, 1)
        if labels is None:
            return False
        for tensor in tensors_in((args, kwargs)):
            if (name := self.names.get(id(tensor))) is not None:
                self._attach(name, 0, labels)
        _spread(out, labels, 1)
        return True

    def _prelu(self, out: Tensor, input: Tensor, weight: Tensor) -> bool:
        if weight.numel() == 1:
            return self._elementwise(out, input)
        return self._batch_norm(out, input, weight)

    def _spatial(self, out: Any, input: Tensor, *args: Any, **kwargs: Any) -> bool:
        labels = self.along(input, 1)
        if labels is None:
            return False
        for result in tensors_in(out):
            _spread(result, labels, 1)
        return not any(id(t) in self.names for t in tensors_in((args, kwargs)))

    def _reduce(self, out: Tensor, input: Tensor) -> bool:
        """Mean over the image (not over channels), with or without keepdim."""
        labels = self.along(input, 1)
        kept = out.ndim == 2 or (out.ndim == input.ndim and out.shape[1] == input.shape[1])
        if labels is None or not kept or out.shape[1] != input.shape[1]:
            return False
        _spread(out, labels, 1)
        return True

    def _elementwise(self, out: Tensor, *args: Any, **kwargs: Any) -> bool:
        operands = [t for t in tensors_in((args, kwargs)) if t.ndim]
        if out.ndim == 0:
            return True
        labelled = [(t, labels) for t in operands if (labels := _labels(t)) is not None]
        if not labelled:
            return False
        # an operand with one channel is spread over all of them and ties none
        operands = [t for t in operands if not _one_channel(t, out)]
        labelled = [pair for pair in labelled if not _one_channel(pair[0], out)] or labelled
        lead = max(labelled, key=lambda pair: pair[0].numel())[1].expand(out.shape)
        for tensor in operands:
            labels = _labels(tensor)
            if labels is not None:
                self._tie_varying(lead, labels.expand(out.shape))
            elif tensor.numel() > 1 and not self._attach_operand(tensor, lead):
                return False
        out.labels = lead  # type: ignore[attr-defined]
        return True

    def _tie_varying(self, a: Tensor, b: Tensor) -> None:
        """Tie two label arrays of one shape, reading constant dimensions once."""
        for dim in range(a.ndim):
            if a.stride(dim) == 0 and b.stride(dim) == 0:
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        different = a != b
        if bool(different.any()):
            self.tie(a[different], b[different])

    def _attach_operand(self, tensor: Tensor, lead: Tensor) -> bool:
        """A parameter multiplied or added channel by channel (layer scale, a position's bias)."""
        name = self.names.get(id(tensor))
        sizes = [dim for dim in range(tensor.ndim) if tensor.shape[dim] > 1]
        if name is None or len(sizes) != 1:
            return False
        dim = sizes[0] + lead.ndim - tensor.ndim
        rows = lead.movedim(dim, 0).flatten(1)
        if not bool((rows == rows[:, :1]).all()):
            return False
        self._attach(name, sizes[0], rows[:, 0].clone())
        return True

    def _pad(self, out: Tensor, input: Tensor, pad: Any, *args: Any, **kwargs: Any) -> bool:
        if out.shape[1] == input.shape[1]:
            return self._spatial(out, input)
        labels = self.along(input, 1)
        if labels is None or len(pad) < 2 * (input.ndim - 1):
            return False
        before = pad[2 * (input.ndim - 2)]
        padded = torch.zeros(out.shape[1], dtype=torch.int64)
        padded[before : before + len(labels)] = labels
        _spread(out, padded, 1)
        return True

    def _move(self, name: str, out: Any, args: Any, kwargs: Any) -> bool:
        """Do to the labels what is done to the values."""
        inputs = [labels for t in tensors_in((args, kwargs)) if (labels := _labels(t)) is not None]
        if not inputs or (isinstance(args[0], Tensor) and _labels(args[0]) is None):
            return False
        moved = _on_labels(name, args, kwargs)
        if moved is None:
            return False
        for result, labels in zip(tensors_in(out), tensors_in(moved), strict=True):
            if len(inputs) == 1 and not _survives(inputs[0], labels):
                return False  # cut channels would shift where the code splits them
            result.labels = labels  # type: ignore[attr-defined]
        return True


def _labels(tensor: Tensor) -> Tensor | None:
    return getattr(tensor, "labels", None)


def _spread(out: Tensor, labels: Tensor, dim: int) -> None:
    shape = [1] * out.ndim
    shape[dim] = len(labels)
    out.labels = labels.view(shape).expand(out.shape)  # type: ignore[attr-defined]


def _one_channel(tensor: Tensor, out: Tensor) -> bool:
    dim = tensor.ndim - out.ndim + 1
    return out.ndim > 1 and out.shape[1] > 1 and dim >= 0 and tensor.shape[dim] == 1


def _survives(before: Tensor, after: Tensor) -> bool:
    """Whether an operation kept each channel whole: no split, no loss (flatten may merge)."""
    if after.ndim > before.ndim and before.unique().numel() > 1:
        sizes = [n for n in after.shape if n > 1]
        if sizes != [n for n in before.shape if n > 1]:
            return False
    return bool(torch.equal(before.unique(), after.unique()))


def _on_labels(name: str, args: Any, kwargs: Any) -> Any:
    if name in {"contiguous", "clone", "detach", "to", "float", "half", "bfloat16", "type_as"}:
        return _labels(args[0])

    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            labels = _labels(value)
            return (
                torch.zeros((), dtype=torch.int64).expand(value.shape) if labels is None else labels
            )
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(swap(item) for item in value)
        return value

    if name == "getitem":
        return args[0].labels[args[1]]  # the index stays as it is
    args, kwargs = swap(args), {key: swap(value) for key, value in kwargs.items()}
    func = getattr(torch, name, None) or getattr(torch.nn.functional, name, None)
    if hasattr(Tensor, name) and isinstance(args[0], Tensor):
        return getattr(args[0], name)(*args[1:], **kwargs)
    return func(*args, **kwargs) if func else None


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
