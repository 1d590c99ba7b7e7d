"""What was measured of a base model, kept on disk: measured once, whoever asks again."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pruning import methods
from pruning.data import Images
from pruning.errors import UserError
from pruning.graph import ChannelGraph
from pruning.methods import State
from pruning.models import files
from pruning.training import evaluate

FORMAT = "2"  # of these files
BATCH = 256
PROBES = 8  # images whose outputs tell networks with equal weights apart
logger = logging.getLogger(__name__)


def measure(name: str, net: nn.Module, graph: ChannelGraph, images: Images) -> tuple[State, float]:
    """The state of a method and the seconds its measuring took, now or when it was cached.

    The key covers weights, structure, images and the method's version. A damaged file is named
    and measured again.
    """
    method = methods.get(name)
    key = f"{name} {method.version}"
    return _kept(
        name, key, net, graph, images, lambda: method.prepare(net, graph, images.batches(BATCH))
    )


def top1(net: nn.Module, graph: ChannelGraph, images: Images, batch: int) -> float:
    """Top-1 of the base model on a split, a fraction; kept as `measure` keeps its states."""

    def score() -> State:
        return {"top1": np.array(evaluate(net, images.batches(batch)))}

    device = next(net.parameters()).device.type
    state, _ = _kept("top1", f"top1 {device} {batch}", net, graph, images, score)
    return float(state["top1"])


def _kept(
    name: str,
    key: str,
    net: nn.Module,
    graph: ChannelGraph,
    images: Images,
    compute: Callable[[], State],
) -> tuple[State, float]:
    place = _folder() / f"{name}-{_digest(key, net, graph, images)}.safetensors"
    if place.is_file():
        try:
            tensors, metadata = files.read_tensors(place)
            if metadata.get("slimfront_state") == FORMAT:
                state = {key: tensor.numpy() for key, tensor in tensors.items()}
                return state, float(metadata["seconds"])
            logger.warning("%s is of another version; measuring again", place)
        except (UserError, KeyError, ValueError) as error:
            logger.warning("%s; measuring again", error)
    began = time.perf_counter()
    state = compute()
    seconds = time.perf_counter() - began
    stored = {key: torch.from_numpy(np.array(array, order="C")) for key, array in state.items()}
    try:
        files.write_tensors(place, stored, {"slimfront_state": FORMAT, "seconds": repr(seconds)})
    except UserError as error:
        logger.warning("%s; the measurement is not kept", error)
    return state, seconds


def _folder() -> Path:
    top = Path(os.environ.get("SLIMFRONT_CACHE") or "~/.cache/slimfront").expanduser()
    return top / "states"


def fingerprint(*sets: Images) -> str:
    """16 hex digits that tell sets apart by shape and labels: another decoder changes neither."""
    digest = hashlib.sha256()
    for images in sets:
        digest.update(repr(images.shape).encode())
        digest.update(images.labels.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _digest(key: str, net: nn.Module, graph: ChannelGraph, images: Images) -> str:
    digest = hashlib.sha256(f"{FORMAT} {key} {graph.digest()}".encode())
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digest.update(images.labels.cpu().numpy().tobytes())
    first, _ = next(iter(images.batches(BATCH)))  # the labels and one batch tell sets apart
    digest.update(first.cpu().contiguous().numpy().tobytes())
    # what lies between the layers has no weights: activations, the eps of BNs, the factory's code
    with torch.inference_mode():
        logits = net(first[:PROBES])
    rounded = (50 * logits / logits.abs().max().clamp_min(1e-30)).round()
    digest.update(rounded.to(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()[:20]
