#!/usr/bin/env python3
"""ONNX of slim networks against their base's: agreement with PyTorch, file size, latency.

Points of a run's frontier, or networks by name, cut to uniform widths with half their MACs (random
weights: they decide neither size nor time). Each is exported, run by onnxruntime on one thread and
compared with PyTorch; base and slim are then timed in turns (median, and least, which a busy
machine disturbs least).

Usage: scripts/bench/export.py [--batch 1 64] [--out FOLDER] (--run RUN | [NETWORK …])
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from benchmark import emit, table
from torch import nn

from pruning import ModelInfo, cut, lattice, trace, uniform
from pruning.graph.cost import Cost
from pruning.graph.widths import fit
from pruning.models import checkpoint
from pruning.models.registry import resolve
from search.deploy import formats, onnx
from search.storage import files as storage
from search.storage import results

# network: input shape
NETWORKS = {
    "resnet20": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "torchvision:efficientnet_b0": (3, 224, 224),
}
SHARE = 0.5
REPEATS = 31


@dataclass(frozen=True)
class Model:
    """A network to export. macs: a share of the base's; top1: on val, as a fraction."""

    name: str
    net: nn.Module
    info: ModelInfo
    macs: float = 1.0
    top1: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--run", help="a finished search, whose frontier is measured instead")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--out", help="keep the ONNX files in this folder")
    found = parser.parse_args()
    torch.set_num_threads(1)
    families = [of_run(found.run)] if found.run else map(by_name, found.networks)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for base, *slims in families:
            rows += _family(base, slims, found.batch, found.out or scratch)
    columns = ["network", "MACs of base", "val %", "MB of base", "agrees to"]
    columns += ["batch", "base ms", "slim ms", "faster", "faster (least)"]
    table("slim ONNX against the base's", columns, rows)


def of_run(run: str) -> list[Model]:
    """The base of a run and the points of its frontier."""
    path = results.base_checkpoint(run)
    base = Model(checkpoint.info(path).model, checkpoint.load(path), checkpoint.info(path))
    models = [base]
    for point in results.read_table(storage.open_uri(run) / "frontier.parquet").to_pylist():
        if point["macs_share"] < 1:
            path = results.point_checkpoint(run, point["rank"])
            net, info = checkpoint.load(path), checkpoint.info(path)
            models.append(Model(base.name, net, info, point["macs_share"], point["score_val_mean"]))
    return models


def by_name(name: str) -> list[Model]:
    """A network with random weights, and what is left of it at uniform widths."""
    shape = NETWORKS[name]
    torch.manual_seed(0)
    base = _settled(resolve(name), shape)
    graph = trace(base, shape)
    cost, lat = Cost(graph), lattice(graph)
    widths = fit(cost, lambda ratio: uniform(graph, lat, ratio), SHARE * cost.base_macs)
    units = widths // graph.granularity
    slim = cut(base, graph, tuple(np.arange(n) for n in units)).eval()
    kept = {group.name: group.channels for group in graph.groups}
    info = ModelInfo(name, {}, shape, 10, (0.5,) * 3, (0.5,) * 3, kept, graph.digest())
    share = int(cost.macs(widths)) / cost.base_macs
    return [Model(name, base, info), Model(name, slim, info, share)]


def _family(
    base: Model, slims: Sequence[Model], batches: Sequence[int], folder: str
) -> list[list[object]]:
    kind, short = formats.get("onnx"), base.name.rpartition(":")[2]
    files, runs = [], []
    for i, model in enumerate((base, *slims)):
        own = os.path.join(folder, f"{short}-{i}")
        os.makedirs(own, exist_ok=True)
        files.append(onnx.deploy(model.net, model.info, kind, own, ()))
        runs.append(kind.open(files[-1].place))
    rows: list[list[object]] = []
    for batch in batches:
        shape = (batch, *base.info.input_shape)
        images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        times = _times([lambda r=run, x=images: r(x) for run in runs])
        medians, leasts = np.median(times, axis=1), times.min(axis=1)
        for i, slim in enumerate(slims, start=1):
            emit(
                "export",
                network=base.name,
                macs_share=slim.macs,
                score_val=slim.top1,
                base_bytes=files[0].bytes,
                slim_bytes=files[i].bytes,
                deviation=files[i].deviation,
                batch=batch,
                base_ms=float(medians[0]),
                slim_ms=float(medians[i]),
                base_least_ms=float(leasts[0]),
                slim_least_ms=float(leasts[i]),
            )
            top1 = "" if slim.top1 is None else f"{100 * slim.top1:.2f}"
            size = f"{files[i].bytes / files[0].bytes:.1%}"
            row = [short, f"{slim.macs:.1%}", top1, size, f"{files[i].deviation:.0e}", batch]
            row += [medians[0], medians[i], medians[0] / medians[i], leasts[0] / leasts[i]]
            rows.append(row)
    return rows


def _times(runs: list[Callable[[], object]]) -> np.ndarray:
    """ms [runs, REPEATS], taken in turns: a busy machine is equally unfair to all."""
    times = np.zeros((len(runs), REPEATS + 1))
    for repeat in range(REPEATS + 1):
        for i, run in enumerate(runs):
            began = time.perf_counter()
            run()
            times[i, repeat] = 1e3 * (time.perf_counter() - began)
    return times[:, 1:]


def _settled(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """In eval mode, with batch-norm statistics that fit the weights."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, *shape))
    return model.eval()


if __name__ == "__main__":
    main()
