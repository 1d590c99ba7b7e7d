#!/usr/bin/env python3
"""What limits a repair without gradients: how far the repaired network is from its base, and where.

A trained network is cut by gain-curve and repaired with error feedback from a few training images.
Top-1, and the divergence KL(base ‖ slim) of the predicted classes in nats, on the images of the
repair, on training images that it has not seen, and on test images. Where the base has learnt its
training images by heart, its activations there say little about those on new images: then the
first two columns agree and the third does not, and more images for the repair change nothing.

    scripts/bench/repair.py --data DATA --weights resnet56.safetensors --network resnet56
"""

from __future__ import annotations

import argparse
import time

import torch
import trained
from benchmark import emit, table
from torch import nn
from torch.nn import functional as F

from pruning import methods, oneshot
from pruning.data.images import Batches
from pruning.graph.widths import lattice
from pruning.methods import Problem
from pruning.training.evaluation import evaluate, mean_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.375, 0.25])
    parser.add_argument("--images", type=int, default=2048, help="training images for statistics")
    parser.add_argument("--repair-images", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--divisor", type=int, default=None, help="default: automatic")
    parser.add_argument("--test-images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = trained.load(options.network, options.weights, options.data, options.test_images)
    net, most = found.net, max(options.repair_images)
    every = found.few(len(found.train))
    unseen = every.subset(slice(most, most + options.test_images))
    problem = Problem(found.graph, lattice(found.graph, options.divisor, 0.05))
    method = methods.get("gain-curve")
    began = time.perf_counter()
    state = method.prepare(net, found.graph, found.few(options.images).batches(256))
    prepare_s = time.perf_counter() - began
    rows = []
    for count in options.repair_images:
        images = every.subset(slice(0, count))
        splits = {"repair": images, "unseen": unseen, "test": found.test}
        for share in options.macs:
            widths = method.allocate(state, problem, share * problem.cost.base_macs)
            slim = oneshot.slim(net, problem, method, state, widths, images.batches(100))
            top1, loss, gap = {}, {}, {}
            for name, split in splits.items():
                top1[name] = evaluate(slim.model, split.batches(500))
                loss[name] = mean_loss(net, split.batches(500))
                gap[name] = divergence(net, slim.model, split.batches(500))
            emit(
                "repair",
                network=options.network,
                macs_share=float(problem.cost.macs(widths) / problem.cost.base_macs),
                repair_images=count,
                prepare_s=prepare_s,
                repair_s=slim.repair_s,
                top1=top1,
                base_loss=loss,
                divergence=gap,
            )
            shown = [f"{100 * value:.2f}" for value in top1.values()]
            shown += [f"{value:.3f}" for value in gap.values()]
            rows.append((count, f"{share:.1%}", *shown, slim.repair_s))
    heads = [f"{what}, {name}" for what in ("top-1", "KL") for name in ("repair", "unseen", "test")]
    base = " / ".join(f"{value:.3f}" for value in loss.values())
    table(
        f"{options.network}: repaired, no gradient step; the base's loss there: {base}",
        ("images", "MACs", *heads, "repair s"),
        rows,
    )


def divergence(base: nn.Module, slim: nn.Module, batches: Batches) -> float:
    """Mean KL(base ‖ slim) of the class probabilities, in nats."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for x, y in batches:
            ours, theirs = (F.log_softmax(model(x).float(), 1) for model in (slim, base))
            total += float(F.kl_div(ours, theirs, reduction="sum", log_target=True))
            count += len(y)
    return total / count


if __name__ == "__main__":
    main()
