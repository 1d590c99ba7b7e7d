"""The whole network as a teacher of feature maps: by mathematics, and in the built-in tasks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pruning import Samples, prune
from pruning.errors import UserError
from pruning.training import Recipe, map_loss, recorded
from pruning.training.feature_maps import attention, channel_wise
from search import tasks
from search.config import Config, ModelConfig
from search.config.recipe import RecipeConfig
from search.data import Given
from search.tasks.workload import Workload
from tests.search.tasks.sums import CONFIG, Sums

NETWORKS = {"scenes-segmentation": "unet", "scenes-detection": "detector"}


def test_channel_wise_is_the_papers_formula() -> None:
    """Equal up to a constant of each channel; else T² / C · Σ_c KL, summed by hand."""
    ours, theirs = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert channel_wise(ours, ours + torch.randn(2, 3, 1, 1), 4.0).abs() < 1e-6
    total = 0.0
    for n in range(2):
        for c in range(3):
            p = torch.softmax(theirs[n, c].flatten() / 4, 0)
            q = torch.softmax(ours[n, c].flatten() / 4, 0)
            total += float((p * (p / q).log()).sum())
    assert float(channel_wise(ours, theirs, 4.0)) == pytest.approx(16 * total / 6, rel=1e-4)


def test_attention_compares_maps_of_any_width() -> None:
    ours, theirs = torch.randn(2, 3, 4, 5), torch.randn(2, 8, 4, 5)
    assert attention(ours, 3 * torch.cat([ours, ours], 1)).abs() < 1e-6, "neither width nor size"
    found = 0.0
    for n in range(2):
        energies = [maps[n].square().sum(0).flatten() for maps in (ours, theirs)]
        a, b = (each / each.norm() for each in energies)
        found += float((a - b).square().sum()) / 2
    assert float(attention(ours, theirs)) == pytest.approx(found, rel=1e-4)


def opened(name: str, maps: str = "auto") -> Workload:
    """A built-in task on sixteen scenes."""
    recipe = RecipeConfig(batch=8, distill=0.5, distill_maps=maps)
    config = Config(task=name, model=ModelConfig(name=NETWORKS[name]), finetune=recipe)
    return tasks.open_task(tasks.load(config), config, "cpu")


def slim(work: Any) -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    whole = work.task.model().eval()
    inputs = work.task.inputs()[0][:16]
    found = prune(whole, Samples([inputs], []), macs=0.5, method="l2-global", repair="none")
    return whole, found.model, next(iter(work.task.train(0)))


def distance(whole: nn.Module, small: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad(), recorded(whole) as theirs, recorded(small) as ours:
        whole(x), small(x)
    return float(map_loss(ours, theirs))


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_change_the_gradient_and_come_nearer(name: str) -> None:
    work: Any = opened(name)
    whole, small, batch = slim(work)
    gradients = []
    for maps in ("none", "auto"):
        small.zero_grad()
        work._distill(Recipe(distill=0.5, distill_maps=maps), small, whole, batch).backward()
        gradients.append(small.get_parameter("stem.0.0.weight").grad.clone())
    assert not torch.allclose(*gradients)
    recipe = Recipe(epochs=8 / 150, lr=0.002, optimizer="adamw", distill=0.9)
    trained = {}
    for maps in ("none", "auto"):
        trained[maps] = copy.deepcopy(small)
        asked = replace(recipe, distill_maps=maps)
        list(work.epochs(trained[maps], asked, seed=0, teacher=whole))
    far = {maps: distance(whole, net, batch[0]) for maps, net in trained.items()}
    assert far["auto"] < 0.8 * distance(whole, small, batch[0])
    assert far["auto"] < far["none"]
    assert not any(module._forward_hooks for module in small.modules())


def test_auto_takes_the_last_map_of_each_resolution() -> None:
    work: Any = opened("scenes-segmentation")
    whole = work.task.model().eval()
    with recorded(whole) as maps:
        whole(work.task.inputs()[0][:2])
    from pruning.training.feature_maps import _chosen

    assert _chosen(maps, "auto") == ["head", "up1", "down2"]
    assert _chosen(maps, "up*.0, head") == ["up1.0", "up2.0", "head"]


def test_a_task_without_distill_is_taught_by_its_maps_alone() -> None:
    config = replace(CONFIG, finetune=RecipeConfig(distill=0.9, distill_maps="auto", batch=8))
    work = tasks.open_task(tasks.load(config, Given(task=Sums())), config, "cpu")
    whole = Sums().model().eval()
    small: Any = Sums().model()
    torch.manual_seed(1)
    nn.init.normal_(small[0].weight, std=0.3)
    x = next(iter(work.samples().inputs))
    before = distance(whole, small.eval(), x)
    recipe = Recipe(epochs=8, lr=0.01, optimizer="adamw", distill=0.9, distill_maps="auto")
    list(work.epochs(small, recipe, seed=0, teacher=whole))
    assert distance(whole, small, x) < before


def test_what_cannot_be_taught_is_said_before_anything_is_measured() -> None:
    work = opened("scenes-segmentation", "backbone.*")
    with pytest.raises(UserError, match=r"distill_maps backbone.\*: no module of that name"):
        work.check(work.task.model())  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="distill_maps is for segmentation"):
        tasks.load(Config(finetune=RecipeConfig(distill=0.5, distill_maps="auto")))
    with pytest.raises(UserError, match="set distill"):
        Recipe(distill_maps="auto")
