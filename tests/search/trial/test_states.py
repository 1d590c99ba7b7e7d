"""Scores in mid-training are those of the network that there is; worse ones are not kept."""

from __future__ import annotations

import copy

import torch

from pruning.models.registry import resolve
from pruning.training import Recipe, evaluate, finetune
from search import tasks
from search.config import Config
from search.data.spec import DataConfig
from search.data.splits import load
from search.storage import REPAIRED, TUNED
from search.trial.states import Repaired, scored_epochs


def test_short_trainings_are_not_scored_with_stale_statistics() -> None:
    config = Config(data=DataConfig("digits", val="0.2"))
    splits = load(config.data, 0)
    work = tasks.open_task(tasks.load(config), config, "cpu")
    torch.manual_seed(0)
    stale = resolve("digits").train()
    fresh = copy.deepcopy(stale)
    recipe = Recipe(epochs=1, batch=64, lr=0.2, augment="shift")

    def score(model: torch.nn.Module) -> float:
        return evaluate(model, splits.val.batches(500))

    for _ in finetune(stale, splits.train, recipe, seed=1):
        pass
    passes = scored_epochs(fresh, work, recipe, seed=1)
    scores = [value for _, value in passes]
    assert len(scores) == 1
    assert scores[0] > score(stale) + 0.02
    for ours, theirs in zip(fresh.parameters(), stale.parameters(), strict=True):
        assert torch.equal(ours, theirs), "only statistics differ"


def test_finding_8_11_a_training_that_made_it_worse_is_taken_back() -> None:
    torch.manual_seed(0)
    net = resolve("digits").eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kept = Repaired(net, 0.9)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(1)
    changed = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert kept.better(net, 0.95) == (TUNED, 0.95)
    assert all(torch.equal(t, changed[name]) for name, t in net.state_dict().items())
    assert kept.better(net, 0.85) == (REPAIRED, 0.9)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
