"""What was measured of a base model, kept on disk: measured once, whoever asks again."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pruning import methods
from pruning.data import Workspace
from pruning.errors import UserError
from pruning.graph import ChannelGraph
from pruning.methods import State
from pruning.models import read_tensors, write_tensors
from search.tasks import MEASURING_BATCH, Identity, Workload

FORMAT = "2"  # of these files
PROBES = 8  # images whose outputs tell networks with equal weights apart
logger = logging.getLogger(__name__)


def measure(
    name: str,
    net: nn.Module,
    graph: ChannelGraph,
    work: Workload,
    workspace: Workspace | None = None,
) -> tuple[State, float]:
    """The state of a method and the seconds its measuring took, now or when it was cached.

    The key covers weights, structure, data and the method's version. A damaged file is named and
    measured again. Of a task whose data cannot be told apart nothing is kept.
    """
    method = methods.get(name)
    key = f"{name} {method.version}"

    def prepare() -> State:
        samples = work.samples(MEASURING_BATCH)
        return method.prepare(net, graph, replace(samples, workspace=workspace or Workspace()))

    return _kept(name, key, net, graph, work.identity("calibration"), prepare)


def score(net: nn.Module, graph: ChannelGraph, work: Workload, split: str) -> float:
    """The base model's score on a split; kept as `measure` keeps its states."""

    def compute() -> State:
        return {"score": np.array(work.score(net, split))}

    device = next(net.parameters()).device.type
    key = f"{work.metric.name} {device}"
    state, _ = _kept("score", key, net, graph, work.identity(split), compute)
    return float(state["score"])


def _kept(
    name: str,
    key: str,
    net: nn.Module,
    graph: ChannelGraph,
    data: Identity | None,
    compute: Callable[[], State],
) -> tuple[State, float]:
    if data is None:
        began = time.perf_counter()
        return compute(), time.perf_counter() - began
    place = _folder() / f"{name}-{_digest(key, net, graph, data)}.safetensors"
    if place.is_file():
        try:
            tensors, metadata = read_tensors(place)
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
        write_tensors(place, stored, {"slimfront_state": FORMAT, "seconds": repr(seconds)})
    except UserError as error:
        logger.warning("%s; the measurement is not kept", error)
    return state, seconds


def _folder() -> Path:
    top = Path(os.environ.get("SLIMFRONT_CACHE") or "~/.cache/slimfront").expanduser()
    return top / "states"


def _digest(key: str, net: nn.Module, graph: ChannelGraph, data: Identity) -> str:
    digest = hashlib.sha256(f"{FORMAT} {key} {graph.digest()}".encode())
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for content in data.content:
        digest.update(content)
    # what lies between the layers has no weights: activations, the eps of BNs, the factory's code
    with torch.inference_mode():
        logits = net(data.probe[:PROBES])
    rounded = (50 * logits / logits.abs().max().clamp_min(1e-30)).round()
    digest.update(rounded.to(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()[:20]
