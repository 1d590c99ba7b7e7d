"""CaP's compensation inside a network, and its structural search on curves known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pruning.graph import lattice, trace
from pruning.methods import Problem, get
from pruning.methods.cap import compensated, structural
from pruning.reconstruction.calls import norms_after
from pruning.reconstruction.filters import by_taps
from pruning.reconstruction.least_squares import residual
from pruning.reconstruction.moments import input_moments
from tests.pruning import sample_models


@pytest.mark.parametrize("group", [1, 3])
def test_a_compensated_reader_errs_by_the_residual(group: int) -> None:
    """The reader's output differs from the whole network's by just what Σ says must be lost."""
    net, graph = sample_models.model("digits"), sample_models.graph("digits")
    x = sample_models.images("digits", 256)
    batches = [(x, torch.zeros(256, dtype=torch.int64))]
    moments = input_moments(net, graph, batches)
    norms = norms_after(net, graph, x[:2])
    units = np.arange(0, graph.groups[group].units, 2)
    slim = compensated(net, graph, moments, norms, group, units)
    reader = graph.layers[graph.consumers[group][0]]
    outputs = []
    for model in (net, slim):
        norm = norms.get(reader.weight)
        watched = model.get_submodule(norm or reader.name)
        handle = watched.register_forward_hook(lambda m, i, o: outputs.append(o.double()))
        with torch.no_grad():
            model(x)
        handle.remove()
    scale = torch.ones(outputs[0].shape[1], dtype=torch.float64)
    if norm:
        bn = net.get_submodule(norm)
        scale = (bn.weight / (bn.running_var + bn.eps).sqrt()).double().detach()
    error = ((outputs[0] - outputs[1]) / scale[:, None, None]).square().mean((0, 2, 3)).sum()
    keep = (*graph.full_keep()[:group], units, *graph.full_keep()[group + 1 :])
    stay = graph.kept_positions(reader.weight, 1, graph.kept_units(keep))
    taps = by_taps(dict(net.named_parameters())[reader.weight].detach().double())
    columns = np.arange(taps[0].numel()).reshape(taps.shape[1:])[:, stay].ravel()
    expected = residual(taps.flatten(1), moments[reader.weight].xx[0], torch.from_numpy(columns))
    assert float(error) == pytest.approx(expected, rel=1e-3)


def test_structural_search_by_hand() -> None:
    """Two thirds of the budget saved by a free group are there for the next one."""
    graph = sample_models.graph("digits")
    problem = Problem(graph, lattice(graph, 1))
    count = len(graph.groups)
    drops = np.zeros((count, 3))
    drops[1:, 1:] = [[0.5, 1.0]]
    widths = structural(drops, problem, 0.0)
    assert widths[0] == 1, "what costs nothing goes"
    np.testing.assert_array_equal(widths[1:], graph.widths[1:])
    halved = structural(drops, problem, 0.25 * count)
    # group 1 may lose 0.5 (two steps of 0.25): half of it; each later one 0.25 more: a quarter
    assert halved[1] == graph.widths[1] // 2
    assert halved[2] == pytest.approx(0.75 * graph.widths[2], abs=1)


def test_a_larger_drop_keeps_less() -> None:
    net, graph = sample_models.model("digits"), sample_models.graph("digits")
    problem, method = Problem(graph, lattice(graph)), get("cap")
    x = sample_models.images("digits", 64)
    state = method.prepare(net, graph, [(x, net(x).argmax(1))])
    macs = [
        problem.cost.macs(method.allocate(state, problem, drop=drop)) for drop in (0.01, 0.3, 3.0)
    ]
    assert macs == sorted(macs, reverse=True)
    assert macs[-1] < macs[0]


def test_a_layer_that_reads_and_writes_one_group_is_compensated() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 6, 3, padding=1)
            self.turn, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.stem(x)
            return self.head((y + self.norm(self.turn(y))).relu().mean((2, 3)))

    torch.manual_seed(0)
    net = Around().eval()
    graph, batches = trace(net, (1, 8, 8)), [(torch.randn(32, 1, 8, 8), torch.zeros(32).long())]
    state = get("cap").prepare(net, graph, batches)
    assert sorted(state["order"][: graph.groups[0].units]) == [*range(6)]
