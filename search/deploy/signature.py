"""What goes into an exported network and comes out of it, tensor by tensor and by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.latency import INPUT, OUTPUT
from pruning.models import Argument, ModelInfo, called


@dataclass(frozen=True)
class Port:
    """shape: with "batch" where a batch's size stands."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """form: how the network nests its outputs, with their names in the tensors' places."""

    arguments: tuple[Argument, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    form: Any

    @property
    def plain(self) -> bool:
        """Whether one tensor goes in by its place, and one comes out."""
        return self.form == OUTPUT and len(self.inputs) == 1 and not self.arguments[0].keyword

    def random(self, batch: int) -> list[Tensor]:
        """Inputs of one call, the same for the same batch."""
        generator = torch.Generator().manual_seed(batch)
        return [each.random(batch, generator) for each in self.arguments]

    def zeros(self, batch: int) -> list[Tensor]:
        return [each.zeros(batch) for each in self.arguments]


def signature(model: nn.Module, info: ModelInfo, batch: int = 2) -> Signature:
    """Of a network in evaluation mode, which is called once.

    Inputs have the names of its keywords or of forward's parameters, one tensor is "images";
    outputs those of its dictionaries and named tuples, numbered in lists; one tensor is "logits".
    UserError where it cannot be called so, or gives no tensor.
    """
    arguments = info.signature
    args, kwargs = called(arguments, [each.zeros(batch) for each in arguments])
    try:
        with torch.inference_mode():
            found = model(*args, **kwargs)
    except Exception as error:  # somebody else's code
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{info.model} does not run on its example: {first}") from error
    tensors: dict[str, Tensor] = {}
    form = _form(found, "", tensors)
    if not tensors:
        raise UserError(f"{info.model} gives a {type(found).__name__} without a tensor")
    outputs = []
    for name, each in tensors.items():
        sizes = ["batch" if i == 0 and n == batch else n for i, n in enumerate(each.shape)]
        outputs.append(Port(name, _kind(each), tuple(sizes)))
    return Signature(arguments, _inputs(model, arguments), tuple(outputs), form)


class Flat(nn.Module):
    """A network as exporters have it: tensors in order go in and come out."""

    def __init__(self, model: nn.Module, arguments: Sequence[Argument]) -> None:
        super().__init__()
        self.model = model
        self.arguments = tuple(arguments)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = called(self.arguments, tensors)
        found: dict[str, Tensor] = {}
        _form(self.model(*args, **kwargs), "", found)
        return tuple(found.values())


def nested(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Outputs as the network itself gives them; tuples come as lists."""
    if isinstance(form, str):
        return tensors[form]
    if isinstance(form, Mapping):
        return {key: nested(part, tensors) for key, part in form.items()}
    return [nested(part, tensors) for part in form]


def names_in(form: Any) -> list[str]:
    """The tensors' names, in the order in which an exported file gives them."""
    if isinstance(form, str):
        return [form]
    parts = form.values() if isinstance(form, Mapping) else form
    return [name for part in parts for name in names_in(part)]


def _inputs(model: nn.Module, arguments: Sequence[Argument]) -> tuple[Port, ...]:
    placed = [
        name
        for name, each in inspect.signature(model.forward).parameters.items()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    found = []
    for i, each in enumerate(arguments):
        name = each.keyword or (placed[i] if i < len(placed) else f"input_{i}")
        if len(arguments) == 1 and not each.keyword:
            name = INPUT
        sizes: tuple[int | str, ...] = each.shape if each.shared else ("batch", *each.shape)
        found.append(Port(name, each.dtype, sizes))
    return tuple(found)


def _form(found: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The nesting of outputs, whose tensors go into `tensors` by their names."""
    if isinstance(found, Tensor):
        name = path or OUTPUT
        tensors[name] = found
        return name
    if is_dataclass(found) and not isinstance(found, type):
        found = {each.name: getattr(found, each.name) for each in fields(found)}
    elif hasattr(found, "_asdict"):
        found = found._asdict()
    parts: dict[str, Any] = {}
    if isinstance(found, Mapping):
        items = [(str(key), part) for key, part in found.items()]
    elif isinstance(found, list | tuple):
        items = [(str(i), part) for i, part in enumerate(found)]
    else:
        return None  # a number or a word, which no exporter keeps
    for key, part in items:
        outer = path or ("" if isinstance(found, Mapping) else "output")
        parts[key] = _form(part, f"{outer}_{key}" if outer else key, tensors)
    held = {key: form for key, form in parts.items() if form is not None}
    return (held if isinstance(found, Mapping) else list(held.values())) or None


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
