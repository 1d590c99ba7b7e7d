#!/usr/bin/env python3
"""Prune once, then train the slim network in your own loop, with the whole one as its teacher.

    python examples/prune_and_train.py --macs 0.2

The pruned network is an ordinary `nn.Module`: build the optimiser after the cut, wrap it in DDP or
`torch.compile` after the cut, save it as you save any other.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import pruning
from pruning.models import resolve


def digits() -> tuple[Tensor, Tensor]:
    """All images [N, 1, 8, 8], normalised, and labels [N], in an order that is always the same."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return ((images - 0.3) / 0.4)[order], torch.tensor(y)[order]


def train(
    model: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float, teacher: nn.Module | None = None
) -> None:
    """Your own loop: plain PyTorch, nothing of slimfront in it."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    batches = -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            logits = model(x[rows])
            loss = F.cross_entropy(logits, y[rows])
            if teacher is not None:
                with torch.no_grad():
                    wanted = F.log_softmax(teacher(x[rows]) / 4, 1)
                soft = F.kl_div(
                    F.log_softmax(logits / 4, 1), wanted, log_target=True, reduction="batchmean"
                )
                loss = 0.1 * loss + 0.9 * 16 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--macs", type=float, default=0.2, help="share of the MACs to keep")
    parser.add_argument("--epochs", type=int, default=5, help="of training after the cut")
    parser.add_argument("--base-epochs", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    x, y = digits()
    x, y, test_x, test_y = x[:1400], y[:1400], x[1400:], y[1400:]
    whole = resolve("digits")
    train(whole, x, y, options.base_epochs, lr=0.05)
    print(f"whole network: test {accuracy(whole, test_x, test_y):.1%}")

    batches = list(zip(x.split(128), y.split(128), strict=True))
    slim = pruning.prune(whole, batches, macs=options.macs).model
    print(f"pruned and repaired: test {accuracy(slim, test_x, test_y):.1%}")

    train(slim, x, y, options.epochs, lr=0.01, teacher=whole)  # the optimiser is made in there
    print(f"trained with a teacher: test {accuracy(slim, test_x, test_y):.1%}")


if __name__ == "__main__":
    main()
