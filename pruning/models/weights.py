"""Trained weights into a network: safetensors, what torch.save wrote, or published ones."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.models import files
from pruning.models.tensors import PICKLES, read_tensors

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
"""Keys under which training scripts save the state dict beside optimisers and epochs."""


def _silent(line: str) -> None:
    pass


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    new_head: bool = False,
    say: Callable[[str], None] = _silent,
) -> dict[str, str]:
    """Load all weights of `model` from a file, in place; returns a safetensors file's metadata.

    The file is safetensors, or a state dict of torch.save (read with weights_only=True: no code of
    it runs). {"state_dict": …} and a prefix of all names, as in module.conv1.weight, are taken off,
    and `say` tells so. Floats of any width become the model's. "torchvision:DEFAULT" or
    "torchvision:IMAGENET1K_V2" name published weights of a torchvision network. `new_head`: a last
    layer of another number of classes stays as it is, untrained, and is named by the key new_head
    of what is returned. UserError where file and network
    do not match or a weight is not finite; the model is then as it was.
    """
    source, _, name = os.fspath(path).partition(":")
    metadata: dict[str, str] = {}
    if source == "torchvision":
        state, metadata = _published_weights(model, name)
    elif os.fspath(path).partition("?")[0].endswith(PICKLES):
        state = _torch_save(path, say)
    else:
        state, metadata = read_tensors(path)
    own = model.state_dict()
    state, prefix = _without_prefix(state, own)
    if prefix:
        say(f"{path}: names taken without their prefix {prefix}")
    _check_names(own, state, path)
    head = _check_shapes(model, own, state, path, new_head)
    _check_finite(state, path)
    for wrong in head:
        old, new = len(state[wrong]), len(own[wrong])
        state = {**state, wrong: own[wrong]}
    if head:
        layer = head[0].rpartition(".")[0]
        say(f"the last layer {layer} is new and untrained: {new} classes, {old} in {path}")
        metadata = {**metadata, "new_head": layer}
    # a plain dict has no version, so BatchNorm fills in a missing num_batches_tracked
    model.load_state_dict(dict(state))
    return metadata


def _torch_save(path: str | os.PathLike[str], say: Callable[[str], None]) -> dict[str, Tensor]:
    """The state dict in a file of torch.save; nothing in it is run."""
    data = files.read(path)
    try:
        found: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged archive makes of itself
        what = re.search(r"GLOBAL ([\w.]+)", str(error))
        if what and isinstance(error, pickle.UnpicklingError):
            raise UserError(
                f"{path} holds more than tensors ({what[1]}), which is not opened since it can "
                "run code; where you trust it, write the weights alone: "
                "torch.save(model.state_dict(), FILE)"
            ) from None
        raise UserError(
            f"{path} is no file of torch.save, or a damaged one ({type(error).__name__}); "
            "write it again with torch.save(model.state_dict(), FILE)"
        ) from None
    taken = []
    while isinstance(found, Mapping) and not _is_state(found):
        key = next((k for k in WRAPPERS if isinstance(found.get(k), Mapping)), None)
        if key is None:
            break
        found = found[key]
        taken.append(key)
    if not isinstance(found, Mapping) or not _is_state(found):
        raise UserError(
            f"{path} holds no state dict, a mapping of names to tensors; "
            "write it with torch.save(model.state_dict(), FILE)"
        )
    if taken:
        say(f"{path}: weights taken from {' in '.join(repr(key) for key in reversed(taken))}")
    return dict(found)


def _is_state(found: Mapping[Any, Any]) -> bool:
    return bool(found) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    )


def _without_prefix(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], str]:
    """The state with the network's own names, and what stood before all of them, as module."""
    first = next(iter(own), "")
    if first in state:
        return state, ""
    ends = (name.removesuffix(first) for name in state if name.endswith(f".{first}"))
    prefix = next((p for p in ends if all(name.startswith(p) for name in state)), "")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, prefix


def _published_weights(model: nn.Module, name: str) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    import torchvision

    spec = str(getattr(model, "origin", ("", {}))[0])
    if not spec.startswith("torchvision:"):
        raise UserError(f"weights torchvision:{name} fit networks named torchvision:… only")
    known = torchvision.models.get_model_weights(spec.partition(":")[2])
    if name not in known.__members__:
        raise UserError(f"{spec} has no weights {name}; known are {', '.join(known.__members__)}")
    weights = known[name]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {weights.url} ({error}); "
            "fetch it elsewhere into $TORCH_HOME/hub/checkpoints"
        ) from error
    heads = ("aux1", "aux2", "AuxLogits")
    absent = tuple(f"{head}." for head in heads if getattr(model, head, None) is None)
    tensors = {
        # torchvision's DenseNet weights carry the names of an older release
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key): tensor
        for key, tensor in state.items()
        if not key.startswith(absent)
    }
    scores = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    crop = weights.transforms()
    metadata = {
        "model": spec,
        "dataset": "imagenet",
        "mean": ",".join(map(str, crop.mean)),
        "std": ",".join(map(str, crop.std)),
        "test_top1": str(scores.get("acc@1", "")),
    }
    return tensors, metadata


def _check_names(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> None:
    """UserError if a name differs between file and network."""
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    foreign = [n for n in state if n not in own]
    if missing or foreign:
        what = f"lacks {missing[0]}" if missing else f"has a foreign {foreign[0]}"
        others = len(missing) + len(foreign) - 1
        raise UserError(
            f"{path} {what} (and {others} more differ); check model.name and model.args"
        )


def _check_shapes(
    model: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    new_head: bool,
) -> list[str]:
    """Names of the last layer's tensors where it alone differs, and a new one is wanted.

    UserError for every other difference.
    """
    wrong = [n for n, tensor in state.items() if tensor.shape != own[n].shape]
    if not wrong:
        return []
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    name = wrong[0]
    only_head = {n.rpartition(".")[0] for n in wrong} == {layers[-1]}
    if only_head and all(state[n].shape[1:] == own[n].shape[1:] for n in wrong):
        if new_head:
            return wrong
        raise UserError(
            f"{path} has {len(state[name])} classes, the network {len(own[name])}; "
            "--model.new_head true puts a new last layer on these weights and trains it as base "
            "says, or name weights of as many classes"
        )
    raise UserError(
        f"{path} has {name} of shape {list(state[name].shape)}, "
        f"the network {list(own[name].shape)}; "
        "check model.name and model.args"
    )


def _check_finite(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"{path} has values in {name} that are not finite (NaN or infinite); "
                "name weights of a training that did not diverge"
            )
