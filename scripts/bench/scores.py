#!/usr/bin/env python3
"""What batch norm should be measured on whenever a network in training is scored.

A trained network is cut by gain-curve, repaired and trained shortly; after each epoch it is scored
with its running statistics as training left them, and with statistics measured anew: on training
images as they are, and augmented as the training does. Validation accuracy; nothing reads test.

    scripts/bench/scores.py
    scripts/bench/scores.py --data DATA --weights resnet20_45k.safetensors --epochs 0.25
"""

from __future__ import annotations

import argparse
import copy

import numpy as np
import torch
from benchmark import emit, table
from torch import nn

from pruning import methods, oneshot
from pruning.data import Images
from pruning.graph import Problem, lattice, trace
from pruning.models.registry import resolve
from pruning.models.weights import load_weights
from pruning.training import Recipe, evaluate, finetune, recalibrate
from search.data.spec import DataConfig
from search.data.splits import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of CIFAR-10; without, the digits")
    parser.add_argument("--weights")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.05, 0.12, 0.25])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.005, 0.02])
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, nargs="+", default=[512, 2048])
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = "cifar10" if options.data else "digits"
    splits = load(DataConfig(name, options.data, "last:5000" if options.data else "0.2"), 0)
    net = _base(options, splits.train)
    graph = trace(net, splits.train.shape)
    problem, method = Problem(graph, lattice(graph, None, 0.05)), methods.get("gain-curve")
    order = np.random.default_rng(0).permutation(len(splits.train))
    seen = splits.train.subset(order[:1000]).batches(100)
    state = method.prepare(net, graph, seen)
    rows = []
    for share in options.macs:
        widths = method.allocate(state, problem, share * problem.cost.base_macs)
        slim = oneshot.slim(net, problem, method, state, widths, seen).model
        for lr in options.lr:
            recipe = Recipe(epochs=options.epochs, batch=options.batch, lr=lr, augment="auto")
            model = copy.deepcopy(slim)
            found = {"repaired": _top1(model, splits.val)}
            for epoch in finetune(model, splits.train, recipe, seed=0, teacher=net):
                scores = {"stale": _top1(model, splits.val)}
                for count in options.images:
                    images = splits.train.subset(order[:count])
                    for augment in ("none", "auto"):
                        measured = copy.deepcopy(model)
                        generator = torch.Generator().manual_seed(0)
                        recalibrate(
                            measured,
                            images.batches(options.batch, augment=augment, generator=generator),
                        )
                        scores[f"{count} {augment}"] = _top1(measured, splits.val)
                emit("scores", data=name, macs=share, lr=lr, epoch=epoch.epoch, **found, **scores)
                rows.append((share, lr, epoch.epoch, *found.values(), *scores.values()))
    table(name, ("MACs", "lr", "epoch", *found, *scores), rows)


def _base(options: argparse.Namespace, train: Images) -> nn.Module:
    if options.data:
        net = resolve(options.network)
        load_weights(net, options.weights)
        return net.eval()
    torch.manual_seed(0)
    net = resolve("digits")
    for _ in finetune(net, train, Recipe(epochs=10, batch=64, lr=0.1, warmup=0.1, augment="shift")):
        pass
    return net.eval()


def _top1(model: nn.Module, val: Images) -> float:
    return round(100 * evaluate(model, val.batches(500)), 2)


if __name__ == "__main__":
    main()
