"""Your own task in forty lines: a network that tells an angle, and the error that it makes.

    python examples/own_task.py                                   # from Python
    slimfront search --task own_task:Angles --trust_factory true  # in this folder

Any network, batches, loss and metric will do; here less is better: the error in degrees.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn

import search

QUICK = {"epochs": 1.0, "optimizer": "adamw", "lr": 0.002}


def strokes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images [N, 1, 32, 32] of a line through the middle, and its angle in radians [N]."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * (torch.rand(count, generator=generator) - 0.5)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    away = x * angle.sin()[:, None, None] - y * angle.cos()[:, None, None]
    images = (-(away**2) / 0.02).exp() + 0.8 * torch.randn(count, 32, 32, generator=generator)
    return images[:, None], angle


class Angles:
    metric = search.Metric("error", unit="°", direction="min", chance=45.0)
    trained = False  # the base model is trained first, as `base` says

    def model(self) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 2))

    def example(self) -> tuple[int, ...]:
        return (1, 32, 32)

    def train(self, seed: int) -> list[dict[str, Tensor]]:
        x, angle = strokes(1024, seed)
        return [{"image": x[i : i + 64], "angle": angle[i : i + 64]} for i in range(0, 1024, 64)]

    def inputs(self) -> list[Tensor]:
        return list(strokes(256, 1)[0].split(64))

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        doubled = 2 * batch["angle"]  # a line looks alike after half a turn
        return (model(batch["image"]) - torch.stack([doubled.cos(), doubled.sin()], 1)).abs().mean()

    def evaluate(self, model: nn.Module, split: str) -> float:
        x, angle = strokes(512, {"val": 2, "test": 3}[split])
        cosine, sine = model(x.to(next(model.parameters()).device)).cpu().T
        off = (torch.atan2(sine, cosine) / 2 - angle).sin().asin().abs()
        return math.degrees(off.mean())


def main(options: argparse.Namespace) -> None:
    base, few = {**QUICK, "epochs": 4.0}, {"final_seeds": 1}
    result = search.run(
        task=Angles(), out=options.out, trials=options.trials, base=base, finetune=QUICK, search=few
    )
    whole = result.metric.show(result.record["base_score_test"])
    print(f"{result.choose(at_most=options.at_most)}; the whole network {whole}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/angles")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--at-most", default="50%")
    main(parser.parse_args())
