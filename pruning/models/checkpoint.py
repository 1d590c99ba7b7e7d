"""One-file models: weights and all that is needed to build the network again, as safetensors."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruning.errors import UserError
from pruning.graph import named_tensors, plain, surgery, tensors_in, twin
from pruning.models import registry
from pruning.models.signature import Argument, called
from pruning.models.tensors import read_metadata, read_tensors, write_tensors

FORMAT = 1


@dataclass(frozen=True)
class ModelInfo:
    """What a file says about its model.

    `model` and `args` name the base network for `zoo.resolve`; `widths` are the channels kept per
    group, `digest` is that of the base's ChannelGraph. `input_shape` is (C, H, W); `mean` and `std`
    normalise pixels in 0..1. `extra` is any JSON. inputs: what it is called with, where that is not
    one tensor of floats [batch, *input_shape].
    """

    model: str
    args: dict[str, Any]
    input_shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    widths: dict[str, int]
    digest: str
    extra: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Argument, ...] = ()

    @property
    def signature(self) -> tuple[Argument, ...]:
        """The tensors of a call, in order."""
        return self.inputs or (Argument(self.input_shape),)

    @property
    def outputs(self) -> int:
        """Numbers that a classifier gives for an image; 0 of other networks."""
        return self.classes

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelInfo:
        """TypeError or ValueError if a field is missing, foreign or of another type."""
        data = json.loads(text)
        if not isinstance(data, dict):
            raise TypeError("no dictionary")
        for name in ("input_shape", "mean", "std"):
            data[name] = tuple(data[name])
        data["inputs"] = tuple(map(Argument.from_json, data.get("inputs", ())))
        found = cls(**data)
        whole = (*found.input_shape, *found.widths.values(), found.classes + 1)  # 0: not known
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in whole):
            raise ValueError("sizes, classes and widths are whole numbers, and none is negative")
        if not all(isinstance(x, int | float) for x in (*found.mean, *found.std)):
            raise TypeError("means and deviations are numbers")
        kinds = ((found.model, str), (found.args, dict), (found.widths, dict), (found.extra, dict))
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise TypeError("model is a name; args, widths and extra are dictionaries")
        return found


def save(model: nn.Module, path: str | os.PathLike[str], info: ModelInfo) -> None:
    """Write a model, pruned or not, to one file at a local path or pyarrow.fs URI, atomically."""
    tensors = {
        # a copy each: safetensors refuses tensors that share memory
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    metadata = {"slimfront": str(FORMAT), "info": info.to_json()}
    for name in vars(model).get("cut_buffers", ()):
        tensors[name] = model.get_buffer(name).detach().cpu().clone()
    if numbers := vars(model).get("adapted"):
        metadata["numbers"] = json.dumps([[*key, number] for key, number in numbers.items()])
    write_tensors(path, tensors, metadata)


def load(
    path: str | os.PathLike[str], *, trust: bool = False, base: nn.Module | None = None
) -> nn.Module:
    """The model of a file, on the CPU in eval mode, with its ModelInfo as `.slimfront`.

    The network is built by name, so a factory outside zoo, torchvision and timm needs `trust`, or
    else the whole network as `base` (left untouched). UserError for files that do not fit.
    """
    state, metadata = read_tensors(path)
    about = _info(metadata, path)
    try:
        numbers = {(m, n, i): int(v) for m, n, i, v in json.loads(metadata.get("numbers", "[]"))}
        model = _filled(about, state, numbers, path, trust, base)
        _check_run(model, about)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit {about.model} ({why}); save it again") from error
    setattr(model, "slimfront", about)  # noqa: B010  nn.Module types its attributes as modules
    return model.eval()


def _filled(
    about: ModelInfo,
    state: Mapping[str, Tensor],
    numbers: surgery.Numbers,
    path: str | os.PathLike[str],
    trust: bool,
    base: nn.Module | None,
) -> nn.Module:
    """The file's network with its tensors, on a skeleton that takes no memory where one can be."""
    for device in ("meta", "cpu"):
        try:
            skeleton = _skeleton(about, trust, base, device)
        except (RuntimeError, NotImplementedError):
            if device == "cpu":
                raise
            continue  # its code asks for values
        _check_shapes(skeleton, state, about, path)
        model = surgery.set_numbers(surgery.resize(skeleton, state), numbers)
        if not _on_meta(model):
            break
    return model


def _skeleton(about: ModelInfo, trust: bool, base: nn.Module | None, device: str) -> nn.Module:
    if base is not None:
        return plain(copy.deepcopy(base))
    # initial weights must not cost the caller's seed
    with torch.random.fork_rng(devices=[]), torch.device(device):
        return plain(registry.resolve(about.model, about.args, trust=trust))


def _on_meta(model: nn.Module) -> bool:
    """Whether tensors that the file does not hold, buffers and plain attributes, lack values."""
    plain = (value for module in model.modules() for value in vars(module).values())
    return any(t.is_meta for t in (*named_tensors(model).values(), *tensors_in(list(plain))))


def _check_run(model: nn.Module, about: ModelInfo) -> None:
    """ValueError or RuntimeError where rows were cut and not what reads them, or classes."""
    if about.args.get("num_classes", about.classes) != about.classes and about.classes:
        raise ValueError(f"num_classes {about.args['num_classes']}, {about.classes} classes")
    runs = twin(model, named_tensors(model)).eval()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    tensors = [each.zeros(1) for each in about.signature]
    args, kwargs = called(about.signature, tensors if about.inputs else [tensors[0].to(dtype)])
    with torch.no_grad():
        out = runs(*args, **kwargs)
    if (
        about.classes
        and isinstance(out, Tensor)
        and out.ndim == 2
        and out.shape[1] != about.classes
    ):
        raise ValueError(f"{out.shape[1]} outputs, {about.classes} classes")


def info(path: str | os.PathLike[str]) -> ModelInfo:
    """What a model file says about itself, without reading its weights."""
    return _info(read_metadata(path), path)


def _info(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> ModelInfo:
    version = metadata.get("slimfront")
    if version is None:
        raise UserError(
            f"{path} holds weights only, not a slimfront model; name it as model.weights instead"
        )
    if version != str(FORMAT):
        raise UserError(f"{path} has format {version}, this reads {FORMAT}; upgrade slimfront")
    try:
        return ModelInfo.from_json(metadata["info"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error}); save it again") from error


def _check_shapes(
    skeleton: nn.Module, state: Mapping[str, Tensor], about: ModelInfo, uri: str | os.PathLike[str]
) -> None:
    """UserError unless each tensor is a cut of the network's and producers have their channels."""
    modules = dict(skeleton.named_modules(remove_duplicate=False))
    for name, whole in skeleton.state_dict().items():
        part = state.get(name, whole)
        path = name.rpartition(".")[0]
        kernel = isinstance(modules.get(path), _ConvNd)  # later axes are the kernel's
        channels = min(2, whole.ndim) if kernel else whole.ndim
        smaller = all(p <= w for p, w in zip(part.shape, whole.shape, strict=False))
        if (
            part.ndim != whole.ndim
            or part.shape[channels:] != whole.shape[channels:]
            or not smaller
        ):
            raise UserError(
                f"{uri} has {name} of shape {list(part.shape)}, no cut of {about.model}'s "
                f"{list(whole.shape)}; was the network changed since?"
            )
    rows: Counter[str] = Counter()
    for group, width in about.widths.items():
        rows[group.partition("#")[0]] += width  # "conv1#2" is another part of conv1's channels
    for layer, width in rows.items():
        weight = state.get(f"{layer}.weight", state.get(layer))
        rows_held = max(weight.shape[:2]) if weight is not None else 0  # transposed: axis 1
        if rows_held < width:
            found = "no weight" if weight is None else f"{rows_held}"
            raise UserError(
                f"{uri} says {width} channels in {layer}, there is {found}; save it again"
            )
