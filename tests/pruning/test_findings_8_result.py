"""What pruning.prune returns: the network, its widths by name, its costs, and a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import pruning
from pruning.models import resolve
from pruning.oneshot import Slimmed


class Own(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
        )
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


def slimmed(model: nn.Module, channels: int) -> Slimmed:
    torch.manual_seed(0)
    batches = [(torch.randn(32, channels, 8, 8), torch.randint(7, (32,)))]
    return pruning.prune(model.eval(), batches, macs=0.5, method="uniform", repair="none")


def test_finding_8_8_the_result_tells_what_it_is() -> None:
    found = slimmed(resolve("digits", {"num_classes": 7}), 1)
    cost = pruning.Cost(found.graph)
    assert found.macs == cost.macs(found.widths) < found.base_macs
    assert found.params == sum(p.numel() for p in found.model.parameters())
    assert list(found.widths_by_name) == [group.name for group in found.graph.groups]
    assert list(found.widths_by_name.values()) == found.widths.tolist()


def test_finding_8_8_save_needs_no_model_info(tmp_path: Path) -> None:
    found, file = slimmed(resolve("digits", {"num_classes": 7}), 1), tmp_path / "slim.safetensors"
    found.save(file, mean=[0.3], std=[0.4])
    again = pruning.load(file)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(again(x), found.model(x), rtol=0, atol=1e-6)
    about = again.slimfront
    assert about.widths == found.widths_by_name
    assert (about.model, about.args, about.classes) == ("digits", {"num_classes": 7}, 7)
    assert (about.mean, about.std, about.input_shape) == ((0.3,), (0.4,), (1, 8, 8))


def test_finding_8_8_a_network_of_the_users_comes_back_by_base(tmp_path: Path) -> None:
    net = Own(7)
    found, file = slimmed(net, 3), tmp_path / "slim.safetensors"
    found.save(file)
    again = pruning.load(file, base=net)
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(again(x), found.model(x), rtol=0, atol=1e-6)
    with pytest.raises(pruning.UserError, match="user:Own was handed in by a program"):
        pruning.load(file)


def test_finding_8_8_dir_shows_the_api() -> None:
    assert {"prune", "load", "save", "trace", "Slimmed", "UserError"} <= set(dir(pruning))
