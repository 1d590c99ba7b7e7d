"""A GPU without a GPU: torch's fake tensors, which have shapes and devices and no values.

An operation on tensors of two devices raises, as on a real one, and so does `numpy()` of a tensor
that was not brought to the CPU. What needs values (a comparison, a number of rows) gets made-up
ones. Backward passes and CUDA graphs cannot be had this way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_impls, fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

GPU = torch.device("cuda:0")


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within, `cuda:0` exists; nothing is computed."""
    import torch._dynamo  # wants the functions below as they are when it is first imported

    values = np.random.default_rng(0)
    real_numpy, real_subclass = Tensor.numpy, Tensor._make_subclass
    real_nonzero = Tensor.nonzero

    def numpy(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(tensor, FakeTensor):
            return real_numpy(tensor, *args, **kwargs)
        assert tensor.device.type == "cpu", "numpy() of a tensor on the GPU"
        with unset_fake_temporarily():
            kind = real_numpy(torch.empty(0, dtype=tensor.dtype)).dtype
        shape = tuple(tensor.shape)
        if kind.kind == "b":
            return np.ones(shape, bool)
        drawn = values.random(shape) if kind.kind == "f" else values.permutation(tensor.numel())
        return drawn.reshape(shape).astype(kind)

    def subclass(cls: type, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if cls is not FakeTensor and isinstance(tensor, FakeTensor):
            with unset_fake_temporarily():
                tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        return real_subclass(cls, tensor, *args, **kwargs)

    def nonzero(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(tensor, FakeTensor):
            return real_nonzero(tensor, *args, **kwargs)
        return torch.arange(len(tensor), device=tensor.device)[:, None]

    def scalar(mode: Any, func: Any, tensor: Tensor) -> float:
        return 0.1 if tensor.dtype.is_floating_point else 0

    item = torch.ops.aten._local_scalar_dense.default
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "numpy", numpy)
        patch.setattr(FakeTensor, "numpy", numpy, raising=False)
        patch.setattr(Tensor, "_make_subclass", staticmethod(subclass))
        patch.setattr(Tensor, "nonzero", nonzero)
        patch.setattr(nn.Module, "to", to)
        patch.setattr(
            fake_tensor, "CONSTANT_NUMEL_LIMIT", 0
        )  # no values, of single numbers neither
        patch.setattr(torch.cuda, "synchronize", lambda *args: None)
        patch.setitem(fake_impls.op_implementations_dict, item, scalar)
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield


def to(module: nn.Module, *args: Any, memory_format: Any = None, **kwargs: Any) -> nn.Module:
    """`nn.Module.to` for fake tensors, which cannot be exchanged in place."""
    kind: dict[str, Any] = {} if memory_format is None else {"memory_format": memory_format}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                moved = tensor.detach().to(*args, **kwargs)
                moved = moved.contiguous(**kind) if moved.ndim == 4 else moved
                tensors[name] = nn.Parameter(moved) if isinstance(tensor, nn.Parameter) else moved
    return module
