"""Run a network once under labels: every torch operation says what it does to channels."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.errors import UserError
from pruning.graph.surgery import fits_itself
from pruning.graph.tracing.inputs import Inputs
from pruning.graph.tracing.labels import (
    FIXED,
    compact,
    fed,
    feed,
    labels_of,
    spread,
    start,
    tensors_in,
)
from pruning.graph.tracing.record import Place, Record
from pruning.graph.tracing.rules import OWN_PARAMETERS, RULES, understood
from pruning.graph.twins import named_tensors, twin

IN_PLACE = {
    "setitem",
    "copy",
    "fill",
    "zero",
    "index_copy",
    "index_add",
    "scatter",
    "masked_scatter",
}
FREE = {"shape", "size", "dim", "numel", "requires_grad", "is_floating_point", "stride", "item"}
OURS = {__name__, *(__name__.replace("recorder", own) for own in ("verification", "watching"))}
SAME_SHAPE = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
NO_CHANNELS = {"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"}


def record_of(model: nn.Module, inputs: Inputs, device: torch.device | str) -> Record:
    """What a forward pass of a twin of `model` says, in evaluation mode.

    Layers that only training reaches are looked up in a second pass, in training mode.
    """
    record = _pass(model, inputs, device, None)
    for name in unreached_layers(model, record):
        record.unreached[name] = "never reached"
    if record.unreached:
        # it may ask for targets, or for more than two images
        with contextlib.suppress(Exception):
            _pass(model, inputs, device, record)
            still = unreached_layers(model, record)
            record.unreached.update(
                {name: "used in training only" for name in record.unreached if name not in still}
            )
    return record


def unreached_layers(model: nn.Module, record: Record) -> list[str]:
    """Convolutions and linear layers whose weights no operation read."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, kinds) and f"{path}.weight" not in record.used
    ]


def _pass(
    model: nn.Module, inputs: Inputs, device: torch.device | str, known: Record | None
) -> Record:
    whole = named_tensors(model)
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        if str(device) == "meta"
        else tensor.detach().to(device, copy=True)
        for name, tensor in whole.items()
    }
    # a twin runs in the model's place: a forward pass may leave anything behind in its modules
    runs = twin(model, tensors).train(known is not None).requires_grad_(False)
    record = known or Record(named_tensors(runs), frozenset(dict(model.named_parameters())))
    if known is not None:
        record.rename(named_tensors(runs))
        record.counting = False
    args, kwargs = inputs.on(device)
    for tensor in tensors_in((args, kwargs)):
        start(tensor)
        feed(tensor)
    record.images = inputs.images
    with torch.no_grad(), _Recorder(record, runs):
        output = runs(*args, **kwargs)
    found = False
    for tensor in tensors_in(output):
        found = True
        record.fix(tensor, "output of the network")
    if not found:
        raise UserError(
            f"the network returned a {type(output).__name__} in which no tensor was found; "
            "return tensors, or lists, tuples, dictionaries or dataclasses of them"
        )
    return record


class _Recorder(TorchFunctionMode):
    """Sends labels through every operation that runs under it, into a record."""

    def __init__(self, record: Record, runs: nn.Module) -> None:
        super().__init__()
        self.record = record
        self.places = Places()
        self.paths = {id(module): path for path, module in runs.named_modules()}
        record.owner = self._owner

    def _owner(self) -> tuple[str, Mapping[str, object]] | None:
        """The module whose code is running: its path and attributes, unless they are fitted."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in self.paths:
                if fits_itself(module):
                    return None
                plain = {k: v for k, v in vars(module).items() if not k.startswith("_")}
                return self.paths[id(module)], plain
            frame = frame.f_back
        return None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        self.record.place = self.places.here()
        operands = list(tensors_in((args, kwargs)))
        self._label_vectors(name, operands)
        inputs = [t for t in operands if labels_of(t) is not None]
        before = [labels_of(t) for t in inputs]
        out = computed(name, func, args, kwargs)
        results = list(tensors_in(out))
        if any(map(fed, operands)):
            # `rows[index] = boxes` returns nothing
            for result in results or tensors_in(args[:1]):
                feed(result)
        parameters = [n for t in operands if (n := self.record.name_of(t)) is not None]
        if not (inputs or parameters) or name in FREE or name in NO_CHANNELS:
            return out
        self.record.used.update(dict.fromkeys(parameters))
        self._note(before)
        if name in IN_PLACE:
            if isinstance(args[0], Tensor):
                start(args[0])
            self._give_up(name, before, results)
        elif results and not understood(self.record, name, out, args, kwargs):
            self._give_up(name, before, results)
            if any(len(self.record.shapes[n]) > 1 for n in parameters) and name not in RULES:
                self.record.uncounted[name] = None
        return out

    def _label_vectors(self, name: str, operands: list[Tensor]) -> None:
        """Parameters that are vectors carry labels from birth: `1 + gamma.view(1, -1, 1, 1)`."""
        if name in OWN_PARAMETERS or name in FREE:
            return
        for tensor in operands:
            own = self.record.name_of(tensor)
            if own is None or labels_of(tensor) is not None or not tensor.is_floating_point():
                continue
            long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
            if len(long) == 1:
                spread(tensor, self.record.axis(own, long[0]), long[0])

    def _note(self, before: list[Tensor | None]) -> None:
        """Which labels met at this line of the network's code."""
        place = self.record.place
        if place is not None and self.record.counting:
            met = [compact(labels) for labels in before if labels is not None]
            self.record.seen.setdefault(place, []).extend(met)

    def _give_up(self, name: str, before: list[Tensor | None], results: list[Tensor]) -> None:
        for labels in before:
            if labels is not None and bool((compact(labels) != FIXED).any()):
                self.record.fix_labels(labels, f"passes through {name}")
        for result in results:
            start(result)


def computed(name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What the operation returns; norms of shapes alone take milliseconds, and change no shape."""
    if name in SAME_SHAPE and args and isinstance(args[0], Tensor) and args[0].is_meta:
        return torch.empty_like(args[0])
    return func(*args, **kwargs)


class Places:
    """Lines of code outside torch, counted as they are passed."""

    def __init__(self) -> None:
        self.count: Counter[tuple[str, int]] = Counter()

    def here(self) -> Place | None:
        frame = sys._getframe(1)
        while frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if module not in OURS and module != "torch" and not module.startswith("torch."):
                line = (frame.f_code.co_filename, frame.f_lineno)
                self.count[line] += 1
                return (*line, self.count[line])
            frame = frame.f_back  # type: ignore[assignment]
        return None


def name_of(func: Callable[..., Any]) -> str:
    """`add_`, `__radd__` and `Tensor.T.__get__` as add, radd and T."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return name.strip("_")
