"""What is measured of a base model is measured once, and never taken for another's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pruning import methods
from pruning.data.images import ImageSet
from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.tracing import trace
from pruning.models import registry
from pruning.training.evaluation import evaluate
from search import tasks
from search.config import Config
from search.data import Given, Splits
from search.tasks import Workload, classification
from search.trial import base_cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path))
    return tmp_path / "states"


@pytest.fixture
def base() -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    net = registry.resolve("digits").eval()
    return net, trace(net, (1, 8, 8))


def drawn(seed: int = 0, count: int = 300) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(0, 10, count))
    return ImageSet(torch.from_numpy(pixels), labels, mean=(0.5,), std=(0.5,), classes=10)


def work(images: ImageSet, val: ImageSet | None = None) -> Workload:
    """Classification of these images; its calibration images are all of them, shuffled."""
    given = Given(splits=Splits(images, val or images, val or images))
    config = Config()
    return tasks.open_task(tasks.load(config, given), config, "cpu")


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(methods.get("cpmc").__class__, "prepare", never)
    monkeypatch.setattr(classification, "evaluate", never)


def test_a_second_asking_measures_nothing(base, monkeypatch) -> None:
    net, graph = base
    state, seconds = base_cache.measure("cpmc", net, graph, work(drawn()))
    score = base_cache.score(net, graph, work(drawn(1)), "val")
    assert score == evaluate(net, drawn(1).batches(100))
    forbid(monkeypatch)
    again, same = base_cache.measure("cpmc", net, graph, work(drawn()))
    assert same == seconds
    assert again.keys() == state.keys()
    assert all(np.array_equal(again[name], state[name]) for name in state)
    assert base_cache.score(net, graph, work(drawn(1)), "val") == score


@pytest.mark.parametrize("changed", ["weights", "images", "version", "forward"])
def test_another_base_model_is_measured_anew(base, monkeypatch, folder, changed: str) -> None:
    net, graph = base
    base_cache.measure("cpmc", net, graph, work(drawn()))
    base_cache.score(net, graph, work(drawn()), "val")
    count = len(list(folder.iterdir()))
    if changed == "weights":
        with torch.no_grad():
            next(net.parameters()).mul_(1.5)
    if changed == "forward":  # nothing that has weights
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eps = 0.5
    if changed == "version":
        monkeypatch.setattr(methods.get("cpmc").__class__, "version", 99)
    images = drawn(5) if changed == "images" else drawn()
    base_cache.measure("cpmc", net, graph, work(images))
    base_cache.score(net, graph, work(images), "val")
    assert len(list(folder.iterdir())) == count + (1 if changed == "version" else 2)


def test_a_damaged_file_is_named_and_measured_again(base, folder, caplog) -> None:
    net, graph = base
    state, _ = base_cache.measure("cpmc", net, graph, work(drawn()))
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        again, _ = base_cache.measure("cpmc", net, graph, work(drawn()))
    assert file.name in caplog.text
    assert all(np.array_equal(again[name], state[name]) for name in state)
    caplog.clear()
    base_cache.measure("cpmc", net, graph, work(drawn()))
    assert not caplog.records, "the damaged file was replaced"
