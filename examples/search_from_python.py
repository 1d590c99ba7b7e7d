#!/usr/bin/env python3
"""A search from Python: a trained network and a DataLoader in, a frontier with its models out.

    python examples/search_from_python.py --trials 12 --out runs/python

Trials run by Ray on all cores of this machine, or on the cluster that this process is connected to.
The same call with the same `out` goes on where it stopped.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import search
from pruning.models import resolve


def digits() -> dict[str, TensorDataset]:
    """Images [N, 1, 8, 8], normalised, and labels [N]: to train on, to choose by, to report."""
    x, y = load_digits(return_X_y=True)
    images = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16 - 0.3) / 0.4
    labels, order = (
        torch.tensor(y),
        torch.randperm(len(y), generator=torch.Generator().manual_seed(0)),
    )
    parts = {"train": order[:1200], "val": order[1200:1500], "test": order[1500:]}
    return {name: TensorDataset(images[rows], labels[rows]) for name, rows in parts.items()}


def train(model: nn.Module, batches: DataLoader, epochs: int) -> None:
    """However you train your network; it comes to the search trained."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for _ in range(epochs):
        for x, y in batches:
            loss: Tensor = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=15, help="of the whole network's training")
    parser.add_argument(
        "--at-most", default="50%", help="share of the MACs (50%%), of the point to load"
    )
    parser.add_argument("--out", default="runs/python", help="folder or URI of the run")
    options = parser.parse_args()
    torch.manual_seed(0)
    parts = digits()
    loaders = {name: DataLoader(part, 64, shuffle=name == "train") for name, part in parts.items()}
    model = resolve("digits")  # any nn.Module
    train(model, loaders["train"], options.epochs)

    result = search.run(
        model,
        **loaders,
        trials=options.trials,
        out=options.out,
        finetune={"epochs": 1, "lr": 0.005},
        search={"final_seeds": 1},
    )
    table = result.frontier.to_pandas()
    print(table[["rank", "macs", "macs_share", "params", "score_val", "score_test"]].to_string())

    point = result.choose(at_most=options.at_most)
    slim = point.load()  # an nn.Module, to deploy or to train on
    x, y = next(iter(loaders["test"]))
    with torch.no_grad():
        right = (slim(x).argmax(1) == y).float().mean()
    print(f"point {point.rank}: {point.macs:,} MACs, {right:.0%} of a test batch")
    print("open in a browser:", result.report())


if __name__ == "__main__":
    main()
