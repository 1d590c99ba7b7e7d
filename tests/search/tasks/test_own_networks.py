"""Tasks of anyone's own with other networks: larger images come out, two go in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import search
from search.config.recipe import RecipeConfig
from search.data import Given
from search.trial import base_model, trial
from tests.search.tasks.sums import CONFIG, QUIET, Sums, candidate


def test_psnr_of_a_network_that_doubles_images(tmp_path: Path) -> None:
    """Super-resolution: pixel shuffle is cut in blocks, and the search's steps hold in dB."""

    class Doubled(Sums):
        metric = search.Metric("PSNR", "dB")

        def model(self) -> nn.Module:
            torch.manual_seed(0)
            body = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
            return nn.Sequential(
                *body, nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2)
            )

        def loss(self, model: nn.Module, batch: Any) -> Any:
            small = torch.stack([each["image"] for each in batch])
            large = nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear")
            return (model(small) - large).abs().mean()

        def evaluate(self, model: nn.Module, split: str) -> float:
            x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(len(split)))
            y = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
            return float(-10 * (model(x) - y).square().mean().log10())

    config = replace(
        CONFIG, out=str(tmp_path), finetune=RecipeConfig(epochs=2, lr=0.01, optimizer="adamw")
    )
    base = base_model.prepare(config, given=Given(task=Doubled()), **QUIET)
    assert base.metric.name == "PSNR" and np.isfinite(base.val)
    own = trial.TrialContext.open(config, replace(base, given=Given(task=Doubled())))
    *_, last = trial.run(own, candidate(own))
    assert last["status"] == "complete" and last["score_val"] > last["score_pruned"]


class Blend(nn.Module):
    """Two images, one by its name; the outputs under names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 16, 3), nn.Conv2d(1, 16, 3)
        self.head = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor, *, second: torch.Tensor) -> dict[str, torch.Tensor]:
        y = (self.one(x) + self.two(second)).relu()
        return {"mean": self.head(y.mean((2, 3)))}


class Two(Sums):
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Blend()

    def example(self) -> Any:
        return self.example_of(torch.zeros(2, 1, 8, 8))

    def inputs(self) -> Any:
        return [{"x": x, "second": x.flip(-1)} for x in super().inputs()]

    def example_of(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x, "second": x.flip(-1)}

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return super().loss(lambda x: model(**self.example_of(x))["mean"], batch)  # type: ignore[arg-type]

    def evaluate(self, model: nn.Module, split: str) -> Any:
        return super().evaluate(lambda x: model(**self.example_of(x))["mean"], split)  # type: ignore[arg-type]


def test_a_trials_file_of_a_network_of_two_inputs_is_read_and_exported(tmp_path: Path) -> None:
    from pruning.models import checkpoint
    from search.deploy.signature import signature

    config = replace(
        CONFIG, out=str(tmp_path), finetune=RecipeConfig(epochs=1, lr=0.01, optimizer="adamw")
    )
    base = base_model.prepare(config, given=Given(task=Two()), **QUIET)
    own = trial.TrialContext.open(config, replace(base, given=Given(task=Two())))
    *_, last = trial.run(own, candidate(own))
    assert last["status"] == "complete", last["reason"]
    again = checkpoint.load(last["checkpoint"], base=Blend())
    how = signature(again, checkpoint.info(last["checkpoint"]))
    assert [str(each) for each in how.inputs] == [
        "x: float32 [batch, 1, 8, 8]",
        "second: float32 [batch, 1, 8, 8]",
    ]
    assert how.form == {"mean": "mean"}
    base_model.store(base, config.out)
    stored = base_model.prepare(config, f"{tmp_path}/base.safetensors", Given(task=Two()), **QUIET)
    assert stored.val == base.val
