#!/usr/bin/env python3
"""ONNX of slim networks against their base's: agreement with PyTorch, file size, latency.

Each network is cut to uniform widths with half its MACs, exported, run by onnxruntime on one thread
and compared with PyTorch; base and slim are then timed in turns (median, and least, which a busy
machine disturbs least). Weights are random: they decide neither size nor time.

Usage: scripts/bench_export.py [--out FOLDER] [NETWORK …]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from benchmark import emit, table
from torch import nn

from pruning import ModelInfo, cut, lattice, trace, uniform
from pruning.cost import Cost
from pruning.graph import ChannelGraph
from pruning.widths import fit
from pruning.zoo import resolve
from search import deploy

# network: (input shape, batch sizes)
NETWORKS = {
    "resnet20": ((3, 32, 32), (1, 64)),
    "mobilenet_v2": ((3, 32, 32), (1, 64)),
    "torchvision:efficientnet_b0": ((3, 224, 224), (1, 16)),
}
SHARE = 0.5
REPEATS = 31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--out", help="keep the ONNX files in this folder")
    found = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in found.networks:
            rows += _network(name, found.out or scratch)
    columns = ["network", "MACs of base", "MB of base", "agrees to"]
    columns += ["batch", "base ms", "slim ms", "faster", "faster (least)"]
    table("slim ONNX against the base's", columns, rows)


def _network(name: str, folder: str) -> list[list[object]]:
    shape, batches = NETWORKS[name]
    torch.manual_seed(0)
    base = _settled(resolve(name), shape)
    graph = trace(base, shape)
    cost, lat = Cost(graph), lattice(graph)
    target = SHARE * cost.base_macs
    widths = fit(cost, lambda ratio: uniform(graph, lat, ratio), target)
    units = widths // graph.granularity
    slim = cut(base, graph, tuple(np.arange(n) for n in units)).eval()
    short = name.rpartition(":")[2]
    paths = [os.path.join(folder, f"{short}-{kind}.onnx") for kind in ("base", "slim")]
    kind = deploy.get("onnx")
    done = [
        deploy.deploy(model, _info(name, graph, shape), kind, path, ())
        for model, path in zip((base, slim), paths, strict=True)
    ]
    runs = [kind.open(path) for path in paths]
    share = int(cost.macs(widths)) / cost.base_macs
    sizes, deviation = [file.bytes for file in done], max(file.deviation for file in done)
    rows: list[list[object]] = []
    for batch in batches:
        images = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
        times = _times([lambda r=run, x=images: r(x) for run in runs])
        (base_ms, slim_ms), (base_least, slim_least) = np.median(times, axis=1), times.min(axis=1)
        emit(
            "export",
            network=name,
            macs_share=share,
            base_bytes=sizes[0],
            slim_bytes=sizes[1],
            deviation=deviation,
            batch=batch,
            base_ms=float(base_ms),
            slim_ms=float(slim_ms),
            base_least_ms=float(base_least),
            slim_least_ms=float(slim_least),
        )
        row = [short, f"{share:.1%}", f"{sizes[1] / sizes[0]:.1%}", f"{deviation:.0e}", batch]
        row += [base_ms, slim_ms, base_ms / slim_ms, base_least / slim_least]
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


def _info(name: str, graph: ChannelGraph, shape: tuple[int, ...]) -> ModelInfo:
    kept = {group.name: group.channels for group in graph.groups}
    return ModelInfo(name, {}, shape, 10, (0.5,) * 3, (0.5,) * 3, kept, graph.digest())


if __name__ == "__main__":
    main()
