"""BN recalibration against means and variances computed directly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.data.images import ImageSet
from pruning.training.batch_norm import recalibrate


@pytest.fixture
def data() -> ImageSet:
    images = torch.randint(0, 256, (96, 3, 8, 8), dtype=torch.uint8)
    return ImageSet(images, torch.zeros(96, dtype=torch.int64), (0.5,) * 3, (0.25,) * 3, 2)


def network() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(180, 4), nn.BatchNorm1d(4), nn.Linear(4, 2),
    )  # fmt: skip


def inputs(model: Any, data: ImageSet) -> Tensor:
    x = torch.cat([x for x, _ in data.batches(32)])
    with torch.no_grad():
        z: Tensor = model[0](x)
    return z


def test_first_norm_gets_the_mean_and_variance_of_the_data(data: ImageSet) -> None:
    model = network()
    model[1].running_mean.fill_(9.0)
    model[1].running_var.fill_(9.0)
    z = inputs(model, data)
    recalibrate(model, data.batches(32))
    torch.testing.assert_close(model[1].running_mean, z.mean((0, 2, 3)))
    batches = torch.stack([part.var((0, 2, 3)) for part in z.split(32)])
    torch.testing.assert_close(model[1].running_var, batches.mean(0))
    torch.testing.assert_close(model[1].running_var, z.var((0, 2, 3)), rtol=0.02, atol=0)


def test_unequal_batches_count_by_their_images(data: ImageSet) -> None:
    model = network()
    z = inputs(model, data)
    recalibrate(model, data.batches(80))
    torch.testing.assert_close(model[1].running_mean, z.mean((0, 2, 3)))


def test_equals_torchs_cumulative_average(data: ImageSet) -> None:
    ours, reference = network(), network()
    reference.load_state_dict(ours.state_dict())
    for model in (ours, reference):
        model[2].p = 0.0
    for norm in (reference[1], reference[5]):
        norm.reset_running_stats()
        norm.momentum = None
    reference.train()
    for x, _ in data.batches(32):
        reference(x)
    recalibrate(ours, data.batches(32))
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_modes_momenta_and_dropout_are_left_alone(data: ImageSet) -> None:
    model = network()
    model[1].eval()
    momenta = [model[1].momentum, model[5].momentum]
    modes = [m.training for m in model.modules()]
    recalibrate(model, data.batches(96))
    first = {k: v.clone() for k, v in model.state_dict().items()}
    recalibrate(model, data.batches(96))  # equal only if dropout, before the second BN, was off
    assert all(torch.equal(v, first[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [model[1].momentum, model[5].momentum] == momenta


def test_a_network_without_norms_is_not_run() -> None:
    class Explodes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("must not run")

    recalibrate(Explodes(), [(torch.zeros(1), torch.zeros(1))])


def test_a_last_batch_of_one_image_is_left_out() -> None:
    """A BN of 1x1 maps finds no variance in it."""
    net = nn.Sequential(nn.Conv2d(1, 3, 8), nn.BatchNorm2d(3)).eval()
    x = torch.randn(9, 1, 8, 8)
    recalibrate(net, [(x[:8], x), (x[8:], x)])
    torch.testing.assert_close(net[1].running_mean, net[0](x[:8]).mean((0, 2, 3)).detach())
