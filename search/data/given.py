"""Networks and images that a Python program hands in as objects, in place of names.

They have no name that another process could build them by. So they travel with the base model,
through Ray's object store, and are never written down: a run's files name the network
"user:CLASS" and the images "user", and to go on with the run they are handed in again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning.data import Images
from pruning.errors import UserError
from pruning.models import registry
from search.data import splits as named
from search.data.forms import images_of
from search.data.spec import DataConfig
from search.data.splits import Splits

TEST_SHARE = "0.1"  # of train, where no test images are given


@dataclass(frozen=True)
class Given:
    """The objects, None where they have a name. network: on the CPU, in eval mode; task: a `Task`,
    in place of both.
    """

    network: nn.Module | None = None
    splits: Splits | None = None
    task: Any = None


def network_of(model: nn.Module) -> nn.Module:
    """A copy on the CPU in eval mode, without wrappers (DataParallel, DDP, torch.compile)."""
    model = _unwrapped(model)
    try:
        return copy.deepcopy(model).cpu().eval()
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{type(model).__name__} cannot be copied ({error}); hand in a network whose "
            "parameters are plain tensors"
        ) from error


def name_of(model: nn.Module) -> str:
    """ "user:CLASS", by which a run's files speak of a network that was handed in."""
    return registry.handed_in(_unwrapped(model))


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def splits_of(
    train: Any,
    val: Any,
    test: Any,
    config: DataConfig,
    *,
    seed: int = 0,
    network: nn.Module | None = None,
) -> Splits:
    """Splits of images in any form that `images_of` takes, checked against each other.

    val and test, where None, are held out of train class by class: val as `config.val` says, test
    a tenth. The classes are the outputs of `network`, else as many as the labels say.
    """
    sets = {"train": images_of(train, "train", config)}
    for name, source in (("val", val), ("test", test)):
        if source is not None:
            sets[name] = images_of(source, name, config)
    if test is None:
        sets["train"], sets["test"] = named.hold_out(sets["train"], TEST_SHARE, seed)
    if val is None:
        sets["train"], sets["val"] = named.hold_out(sets["train"], config.val, seed)
    shape = sets["train"].shape
    for name, images in sets.items():
        if images.shape != shape:
            raise UserError(f"{name} has images of shape {images.shape}, train of {shape}")
    highest = max(int(images.labels.max()) for images in sets.values())
    classes = highest + 1 if network is None else _outputs(network, sets["train"])
    if highest >= classes:
        raise UserError(f"there is a label {highest}, but the network has {classes} outputs")
    sets = {
        name: replace(images, classes=classes) if is_dataclass(images) else images
        for name, images in sets.items()
    }
    return Splits(sets["train"], sets["val"], sets["test"])


def _outputs(network: nn.Module, images: Images) -> int:
    x, _ = next(iter(images.batches(2)))
    try:
        with torch.no_grad():
            logits = copy.deepcopy(network)(x)
    except (RuntimeError, TypeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"the network cannot read images of shape {images.shape} ({line}); "
            "give the images as it takes them"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError("the network must give logits [N, classes] for images [N, C, H, W]")
    return int(logits.shape[1])
