#!/usr/bin/env python3
"""How well a network with depthwise layers is repaired without a gradient step.

tf_efficientnet_lite0 on Tiny-ImageNet, cut by gain-curve at shares of its MACs and repaired from a
few training images: top-1 and the divergence KL(base ‖ slim) on the first test images, processor
seconds of each stage, peak memory. The whole network with statistics carried over and measured
anew, too.

    scripts/bench/depthwise.py --data tiny_imagenet --weights tf_efficientnet_lite0.safetensors
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace

import torch
from benchmark import emit, table
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import methods, oneshot
from pruning.data import Images, Samples, Workspace
from pruning.graph import Problem, cut, lattice, trace
from pruning.models.registry import resolve
from pruning.models.weights import load_weights
from pruning.training import carry_over, evaluation_mode, recalibrate
from search.data.spec import DataConfig
from search.data.splits import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of Tiny-ImageNet's Parquet files")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--images", type=int, default=1000, help="training images for everything")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--macs", type=float, nargs="*", default=[0.85, 0.7, 0.5])
    parser.add_argument("--repair", default="feedback", choices=oneshot.REPAIRS)
    parser.add_argument("--memory-gb", type=float, help="of measuring and repairing (no limit)")
    options = parser.parse_args()
    workspace = Workspace(options.memory_gb)
    torch.set_num_threads(1)
    half = (0.5, 0.5, 0.5)
    splits = load(DataConfig("parquet", options.data, "0.1", options.size, half, half), 0)
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
    seen = splits.train.subset(order[: options.images])
    test = splits.test.subset(slice(0, options.test_images))
    net = resolve("timm:tf_efficientnet_lite0", {"num_classes": 200})
    load_weights(net, options.weights)
    net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    graph = trace(net, splits.train.shape)
    problem, method = Problem(graph, lattice(graph, None, 0.05)), methods.get("gain-curve")
    base, rows = _logits(net, test), []

    def note(what: str, model: nn.Module, seconds: float) -> None:
        logits = _logits(model, test)
        top1 = 100 * float((logits.argmax(1) == test.labels).float().mean())
        gap = float(
            F.kl_div(logits.log_softmax(1), base.log_softmax(1), None, None, "batchmean", True)
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        emit("depthwise", what=what, top1=top1, divergence=gap, cpu_s=seconds, peak_gb=peak)
        rows.append((what, f"{top1:.1f}", f"{gap:.3f}", seconds, peak))

    note("base", net, 0.0)
    keep = graph.full_keep()
    for name in ("carried over", "measured anew"):
        whole, began = cut(net, graph, keep), time.process_time()
        if name == "carried over":
            carry_over(whole, net, graph, keep, seen.batches(20))
        else:
            recalibrate(whole, seen.batches(20))
        note(f"whole, statistics {name}", whole, time.process_time() - began)
    began = time.process_time()
    samples = replace(Samples.of(seen.batches(20)), workspace=workspace)
    state = method.prepare(net, graph, samples)
    emit("depthwise", what="prepare", cpu_s=time.process_time() - began)
    for share in options.macs:
        widths = method.allocate(state, problem, share * problem.cost.base_macs)
        began = time.process_time()
        samples = replace(Samples.of(seen.batches(100)), workspace=workspace)
        slim = oneshot.slim(net, problem, method, state, widths, samples, repair=options.repair)
        note(f"{share:.0%} of the MACs", slim.model, time.process_time() - began)
    table("tf_efficientnet_lite0", ("network", "top-1 %", "KL", "CPU s", "peak GB"), rows)


def _logits(model: nn.Module, images: Images) -> Tensor:
    with torch.inference_mode(), evaluation_mode(model):
        return torch.cat([model(x).float() for x, _ in images.batches(10)])


if __name__ == "__main__":
    main()
