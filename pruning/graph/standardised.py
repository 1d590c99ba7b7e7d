"""Convolutions that compute their weight at every call, as weight standardisation does, made plain.

The scale of a standardised filter hangs on all channels it reads, so such a layer cannot be cut as
it is. An ordinary convolution with the weight it computes can, and computes the same.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

CONVOLUTIONS: set[Any] = {F.conv1d, F.conv2d, F.conv3d}
CLASSES: dict[int, type[_ConvNd]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_verdicts: dict[type[nn.Module], bool] = {}


def standardised(module: nn.Module) -> bool:
    """Whether the module is a convolution whose class computes its weight from its parameters."""
    ordinary = {kind.forward for kind in CLASSES.values()}
    if not isinstance(module, _ConvNd) or module.transposed or type(module).forward in ordinary:
        return False
    if type(module) not in _verdicts:
        _verdicts[type(module)] = _weight(module, _noise(module, 0)) is not None
    return _verdicts[type(module)]


def make_plain(module: nn.Module) -> None:
    """Make the module an ordinary convolution with the weight it computes, in place.

    It stays as it is where no ordinary one computes the same.
    """
    assert isinstance(module, _ConvNd)
    xs = [_noise(module, more) for more in (0, 1)]
    weights = [_weight(module, x) for x in xs]
    if any(weight is None for weight in weights) or not torch.equal(*weights):  # type: ignore[arg-type]
        return  # a weight that depends on the image
    weight = nn.Parameter(weights[0], module.weight.requires_grad)  # type: ignore[arg-type]
    for kind in _kinds(module):
        made: nn.Module = copy.copy(module)
        made.__class__ = kind
        made._parameters = {"weight": weight, "bias": module._parameters["bias"]}
        made._buffers = {}
        if all(_agree(made, module, x) for x in xs):
            plain: nn.Module = module
            plain.__class__ = kind
            plain._parameters, plain._buffers = made._parameters, made._buffers
            return


def _kinds(module: _ConvNd) -> Iterator[type[nn.Module]]:
    yield CLASSES[module.weight.ndim]
    # padded to the image's size, as TensorFlow does
    if (timm := sys.modules.get("timm.layers")) is not None and module.weight.ndim == 4:
        yield timm.Conv2dSame


def _noise(module: _ConvNd, more: int) -> Tensor:
    """An image just larger than the kernel; `more`: pixels added, so that both parities occur."""
    generator = torch.Generator().manual_seed(0)
    reach = (d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
    sides = [each + 6 + more for each in reach]
    x = torch.randn(1, module.in_channels, *sides, generator=generator)
    return x.to(module.weight)


class _Weights(TorchFunctionMode):
    """Notes the weights that convolutions are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CONVOLUTIONS:
            self.found.append(kwargs["weight"] if "weight" in kwargs else args[1])
        return func(*args, **kwargs)


def _weight(module: _ConvNd, x: Tensor) -> Tensor | None:
    """The weight that the module computes; None where it is the parameter, or there are several."""
    try:
        with torch.no_grad(), _Weights() as weights:
            module(x)
    except Exception:  # its code is its own
        return None
    if len(weights.found) != 1:
        return None
    weight = weights.found[0]
    known = not weight.is_meta and weight.data_ptr() == module.weight.data_ptr()
    same = weight is module.weight or known
    return None if same or weight.shape != module.weight.shape else weight.detach().clone()


def _agree(made: nn.Module, module: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            ours, theirs = made(x), module(x)
    except Exception:
        return False
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
