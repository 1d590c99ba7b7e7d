#!/usr/bin/env python3
"""Latency tables: predicted against measured for random width vectors, seconds to build them.

Layers are timed on a grid and twelve whole networks beside them; 40 other width vectors are then
foretold and measured. One thread; quote it from a machine that does nothing else.

Usage: scripts/bench/latency.py [--runtime torch onnxruntime] [--count 40] [NETWORK …]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from benchmark import emit, table
from scipy.stats import spearmanr

from pruning import Cost, lattice, trace
from pruning.latency import OnnxRuntime, Runtime, Torch, build, spread, time_networks
from pruning.models import resolve

# network: input shape
NETWORKS = {
    "resnet20": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "vgg16_bn": (3, 32, 32),
}
RUNTIMES = {"torch": Torch, "onnxruntime": OnnxRuntime}
SEED = 5  # not that of the networks which the table is fitted to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--runtime", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES))
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--size", type=int, help="side of the images, where not the usual one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.networks:
        shape = NETWORKS.get(name, (3, 224, 224))
        shape = (3, options.size, options.size) if options.size else shape
        for kind in options.runtime:
            found = measure(name, shape, RUNTIMES[kind](), options.count)
            emit("latency", network=name, input=shape, runtime=kind, **found)
            rows.append([name, kind, *(found[key] for key in COLUMNS)])
    table("predicted against measured", ["network", "runtime", *COLUMNS.values()], rows)


COLUMNS = {
    "build_s": "table built in [s]",
    "base_ms": "whole [ms]",
    "least_ms": "narrowest [ms]",
    "spearman": "Spearman",
    "spearman_macs": "of MACs",
    "median_error": "median error",
    "largest_error": "largest error",
}


def measure(name: str, shape: tuple[int, ...], runtime: Runtime, count: int) -> dict[str, float]:
    """Build a table and compare it with `count` networks that it has not seen."""
    model = resolve(name, {}).eval()
    graph = trace(model, shape)
    lat = lattice(graph)
    began = time.perf_counter()
    foretells = build(model, graph, lat, runtime)
    seconds = time.perf_counter() - began
    widths = spread(graph, lat, count + 1, seed=SEED)[1:]
    timed = time_networks(model, graph, runtime, widths)
    truth = np.array([each.median_ms for each in timed])
    found = foretells(widths)
    errors = np.abs(found / truth - 1)
    return {
        "build_s": round(seconds, 1),
        "base_ms": float(foretells.measured.ms[0]),
        "least_ms": float(truth.min()),
        "spearman": float(spearmanr(found, truth).statistic),
        "spearman_macs": float(spearmanr(Cost(graph).macs(widths), truth).statistic),
        "median_error": float(np.median(errors)),
        "largest_error": float(errors.max()),
    }


if __name__ == "__main__":
    main()
