"""BN recalibration against means and variances computed directly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.data.images import ImageSet
from pruning.errors import UserError
from pruning.graph.surgery import cut
from pruning.graph.tracing import trace
from pruning.training.batch_norm import carry_over, recalibrate
from tests.pruning import sample_models as models


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


@pytest.mark.parametrize("batches", [[], iter([])])
def test_without_images_the_statistics_stay(batches: Any) -> None:
    model = network()
    model[1].running_mean.fill_(9.0)
    with pytest.raises(UserError, match="no images"):
        recalibrate(model, batches)
    assert bool((model[1].running_mean == 9.0).all())


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "densenet40"])
def test_a_network_that_was_not_cut_keeps_its_statistics_on_any_images(name: str) -> None:
    """Measured anew they would be those of noise that is not even centred."""
    model, graph = models.model(name), models.graph(name)
    slim = cut(model, graph, graph.full_keep())
    carry_over(slim, model, graph, graph.full_keep(), _foreign())
    for key, tensor in slim.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key


def test_what_the_cut_changed_is_carried_over() -> None:
    """y = w·x with two of four inputs left: mean and variance fall by what those two had."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    norm: Any = model.eval()[3]
    norm.running_mean.copy_(torch.tensor([0.3, -0.2]))
    norm.running_var.copy_(torch.tensor([0.1, 0.05]))
    graph = trace(model, (3, 8, 8))
    keep = (torch.tensor([0, 2]).numpy(),)
    slim: Any = cut(model, graph, keep)
    batches = _foreign(1)
    before, after = (net[:3](batches[0][0]).detach() for net in (model, slim))
    carry_over(slim, model, graph, keep, batches)
    old, new = (torch.var_mean(y, (0, 2, 3)) for y in (before, after))
    ratio = new[0] / old[0]
    share = torch.minimum(ratio, 1 / ratio)
    var = new[0] * (norm.running_var / old[0]) ** share
    torch.testing.assert_close(slim[3].running_var, var, rtol=0.02, atol=0)
    mean = new[1] + share * (norm.running_mean - old[1]) * ratio.sqrt()
    torch.testing.assert_close(slim[3].running_mean, mean, rtol=0.02, atol=0.01)
    with pytest.raises(UserError, match="no images"):
        carry_over(slim, model, graph, keep, [])


def _foreign(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (3 * torch.randn(6, 3, 32, 32, generator=generator) + 2, torch.zeros(6))
        for _ in range(count)
    ]
