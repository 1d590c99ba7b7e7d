#!/usr/bin/env python3
"""Your own network and your own DataLoader: how small can it get without a gradient step?

    python examples/own_network.py

A small network is trained on scikit-learn's digits, then pruned to three MAC targets. Nothing in it
knows about pruning: any `nn.Module` and any batches of (images, labels) will do.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import pruning


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32),
        nn.MaxPool2d(2),
        Block(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def loaders() -> tuple[DataLoader, DataLoader]:
    """Batches of images [B, 1, 8, 8] and labels [B], to train on and to test on."""
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    everything = TensorDataset((images - 0.3) / 0.4, torch.tensor(y))
    train, test = random_split(everything, [0.8, 0.2], torch.Generator().manual_seed(0))
    return DataLoader(train, 64, shuffle=True), DataLoader(test, 256)


def fit(model: nn.Module, batches: DataLoader, epochs: int, lr: float) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True)
    steps = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * len(batches))
    model.train()
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            steps.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, batches: DataLoader) -> float:
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / len(batches.dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="of the whole network's training")
    options = parser.parse_args()
    torch.manual_seed(0)
    train, test = loaders()
    model = network()
    fit(model, train, options.epochs, lr=0.1)
    print(f"whole: test {accuracy(model, test):.1%}")
    for share in (0.75, 0.5, 0.25):
        slim = pruning.prune(model, train, macs=share)
        kept, found = slim.macs / slim.base_macs, accuracy(slim.model, test)
        print(f"asked {share:.0%}: {kept:.1%} of the MACs, test {found:.1%}")


if __name__ == "__main__":
    main()
