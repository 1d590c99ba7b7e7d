"""The lockstep repair around batch norms: what they read elsewhere, statistics that hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.graph import cut, trace
from pruning.reconstruction.error_feedback import repair
from pruning.reconstruction.refit import Settings
from pruning.reconstruction.walk import Walk
from pruning.training import recalibrate
from tests.pruning import sample_models
from tests.pruning.reconstruction.samples import batches as _batches
from tests.pruning.reconstruction.samples import outputs as _outputs


class Shared(nn.Module):
    """As before activation in ResNets: what a BN reads goes on by a skip, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y + self.inner(F.relu(self.norm(y)))
        return self.head(F.relu(self.last(y)).mean((2, 3)))


def _lively(name: str) -> nn.Module:
    if name != "shared":
        return sample_models.model(name)
    torch.manual_seed(0)
    net = Shared()
    for norm in (net.norm, net.last):
        nn.init.uniform_(norm.weight, -1.0, 1.0)  # some negative: absorbed, they turn a filter
    recalibrate(net, _batches((3, 32, 32)))
    return net.eval()


@pytest.mark.parametrize("name", ["shared", "densenet40"])
def test_a_bn_whose_input_is_read_elsewhere_is_no_part_of_the_layer(name: str) -> None:
    """What the walk takes for the cut network is the cut network."""
    model = _lively(name)
    graph = trace(model, (3, 32, 32))
    keep = sample_models.random_keep(graph, 3)
    slim = cut(model, graph, keep)
    batches = _batches((3, 32, 32), count=2)
    seen: list[Tensor] = []
    force = Walk.force

    def watched(walk: Any, pair: Any, *clip: Any) -> None:
        force(walk, pair, *clip)
        seen[:] = pair.slim

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Walk, "force", watched)
        repair(slim, model, graph, keep, batches)
    made = _outputs(slim, batches)
    assert (torch.cat(seen) - made).square().mean() < 1e-6 * made.var()


@pytest.mark.parametrize("name", ["resnet20", "densenet40", "shared"])
def test_measuring_the_statistics_anew_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = _lively(name)
    graph = trace(model, (3, 32, 32))
    keep = sample_models.random_keep(graph, 3)
    slim = cut(model, graph, keep)
    batches = _batches((3, 32, 32), count=1, size=24)
    recalibrate(model, batches)  # else statistics after sums keep what these images lack
    slim = cut(model, graph, keep)
    repair(slim, model, graph, keep, batches, settings=Settings(positions=10**6))
    before = _outputs(slim, batches)
    recalibrate(slim, batches)
    difference = (_outputs(slim, batches) - before).square().mean()
    assert difference < 1e-2 * before.var()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_layers_fitted_one_by_one_leave_norms_that_know_what_they_read(name: str) -> None:
    """Each is fitted to what the whole network hands it: behind it stands a cut one."""
    model, graph = sample_models.model(name), sample_models.graph(name)
    x = sample_models.images(name, 32)
    slim = cut(model, graph, keep := sample_models.random_keep(graph, 0))
    repair(slim, model, graph, keep, [(x, torch.zeros(len(x)))], feedback=False)
    read: dict[str, Tensor] = {}
    for path, module in slim.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, args, path=path: read.update({path: args[0]})
            )
    with torch.no_grad():
        slim.eval()(x)
    norms = dict(slim.named_modules())
    del read[next(iter(read))]  # behind the first layer, which reads what it always read
    assert len(read) > 10
    for path, seen in read.items():
        mean, size = norms[path].running_mean, seen.std((0, 2, 3)) + 1e-3
        assert float(((seen.mean((0, 2, 3)) - mean) / size).abs().max()) < 1e-2, path
