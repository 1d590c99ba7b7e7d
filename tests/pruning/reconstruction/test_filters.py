"""The covariance pass against a naive unfold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pruning.errors import UserError
from pruning.graph import trace
from pruning.reconstruction import moments as covariance
from pruning.reconstruction.filters import Filter
from pruning.reconstruction.moments import Sums, input_moments
from pruning.reconstruction.rows import outputs, patches, thinning

FILTERS = [
    Filter((3, 3), (1, 1), (1, 1)),
    Filter((3, 3), (2, 2), (1, 1)),
    Filter((1, 1), (2, 2), (0, 0)),
    Filter((3, 5), (2, 1), (0, 2), (2, 1)),
    Filter((3, 3), (1, 1), "same"),
    Filter((3, 3), (2, 2), (1, 1), groups=3),
]


@pytest.mark.parametrize("how", FILTERS)
@pytest.mark.parametrize("every", [(1, 1), (2, 3)])
def test_patches_times_weights_are_the_layer(how: Filter, every: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 10, dtype=torch.float64)
    weight = torch.randn(12, 6 // how.groups, *how.kernel, dtype=torch.float64)
    y = how.apply(x, weight, None)
    assert torch.equal(how.weight(how.blocks(weight)), weight)
    for phase in range(5):
        made = patches(x, how, every, phase) @ how.blocks(weight).mT
        torch.testing.assert_close(made, outputs(y, how, every, phase, how.groups))


@pytest.mark.parametrize("sides", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "extra", "dilation"),
    [(2, 2, 0, 0, 1), (4, 2, 1, 0, 1), (3, 2, 1, 1, 1), (3, 1, 2, 0, 2), (2, 3, 0, 0, 1)],
)
def test_a_transposed_convolution_is_one_of_the_stretched_input(
    sides: int, kernel: int, stride: int, padding: int, extra: int, dilation: int
) -> None:
    torch.manual_seed(0)
    layer = getattr(nn, f"ConvTranspose{sides}d")(
        3, 4, kernel, stride, padding, extra, bias=False, dilation=dilation, dtype=torch.float64
    )
    x = torch.randn(2, 3, *(5, 6, 4)[:sides], dtype=torch.float64)
    weight, y = layer.weight.detach(), layer(x).detach()
    call = (x, weight, None, layer.stride, layer.padding, layer.output_padding, 1, layer.dilation)
    how = Filter.of_transposed(*call)
    torch.testing.assert_close(how.apply(x, how.turned(weight), None), y)
    assert torch.equal(how.turned(how.turned(weight)), weight)
    blocks = how.blocks(how.turned(weight))
    assert torch.equal(how.turned(how.weight(blocks)), weight)
    for phase in range(3):
        every = thinning(y, how, positions=9)
        made = patches(x, how, every, phase) @ blocks.mT
        torch.testing.assert_close(made, outputs(y, how, every, phase))


def test_every_position_is_met_over_the_phases() -> None:
    how = Filter((1, 1))
    x = torch.arange(36.0).view(1, 1, 6, 6)
    seen = torch.cat([patches(x, how, (2, 3), phase).flatten() for phase in range(6)])
    assert sorted(seen.tolist()) == list(range(36))


def test_the_pass_equals_a_naive_unfold() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 9, 4),
    ).double()  # fmt: skip
    graph = trace(model.float(), (3, 8, 8))
    model.double()
    batches = [(torch.randn(5, 3, 8, 8, dtype=torch.float64) + 1, torch.zeros(5)) for _ in range(3)]
    found = input_moments(model, graph, batches, positions=10**6)
    assert set(found) == {"2.weight", "5.weight"}
    h = torch.cat([model[:2](x) for x, _ in batches]).detach()
    columns = F.unfold(h, 3, stride=2).view(15, 8, 9, -1).permute(0, 3, 2, 1).reshape(-1, 72)
    each = found["2.weight"]
    torch.testing.assert_close(each.xx[0], torch.cov(columns.T, correction=0))
    torch.testing.assert_close(each.mean_x[0], columns.mean(0))
    weight = model[2].weight.detach().permute(0, 2, 3, 1).reshape(6, -1)
    torch.testing.assert_close(each.xy[0], weight @ torch.cov(columns.T, correction=0))


def test_sums_do_not_cancel_far_from_zero() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4000, 4) + 1e4
    sums = Sums()
    for part in x:
        sums.add(part, part[:, :1])
    expected = torch.cov(x.double().flatten(0, 1).T, correction=0)
    torch.testing.assert_close(sums.moments().xx, expected, rtol=1e-3, atol=1e-3)


def test_a_covariance_that_no_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of the first linear layer of torchvision's VGG on a small machine."""
    monkeypatch.setattr(covariance, "_memory", lambda device: 8e9)
    with pytest.raises(UserError, match=r"reads 25,088 inputs, .* 15 GB; choose a method"):
        Sums().add(torch.zeros(2, 25_088), torch.zeros(2, 3))
    Sums().add(torch.zeros(2, 100), torch.zeros(2, 3))
