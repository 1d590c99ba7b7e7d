"""Tables against a machine whose times are formulas: what is foretold is what it takes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pruning.graph import Cost, cut, lattice, trace
from pruning.latency import (
    Timing,
    Torch,
    alone,
    build,
    falls,
    followed,
    from_json,
    measured_table,
    rest,
    spread,
    to_json,
    wasted,
)
from pruning.latency.calls import LayerCall, layer_calls
from pruning.latency.grid import Grid, points
from pruning.models import resolve

OVERHEAD = 0.25  # ms a network, between layers


class Machine:
    """Time of a layer: so much a MAC, channels rounded up to whole vectors of `lanes`."""

    name = "machine"

    def __init__(self, lanes: int = 1, between: float = 0.0) -> None:
        self.batch, self.lanes, self.between = 1, lanes, between
        self.layers = 0

    def describe(self) -> str:
        return f"a machine of {self.lanes} lanes"

    def ms(self, rows: int, taps: int, positions: int) -> float:
        vectors = -(-rows // self.lanes) * self.lanes
        return 1e-6 * vectors * taps * positions + 1e-3

    def layer(self, call: LayerCall, rows: int, columns: int) -> float:
        self.layers += 1
        stride = np.array(call.filter.stride if call.filter.kernel else 1)
        positions = int(np.prod(-(-np.array(call.size, dtype=int) // stride)))
        return self.ms(rows, columns * int(np.prod(call.filter.kernel, dtype=int)), positions)

    def network(self, model: nn.Module, example: tuple[int, ...]) -> Timing:
        total = [OVERHEAD]

        def see(layer: nn.Module, args: object, out: torch.Tensor) -> None:
            rows, positions = out.shape[1], out[0, 0].numel()
            total.append(self.ms(rows, layer.weight[0].numel(), positions))  # type: ignore[index]
            total.append(self.between * rows * positions)

        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        hooks = [layer.register_forward_hook(see) for layer in layers]
        with torch.no_grad():
            model(torch.zeros(1, *example))
        for hook in hooks:
            hook.remove()
        return Timing(sum(total), 0.0, 1)


@pytest.fixture(scope="module", params=["resnet20", "torchvision:mobilenet_v2"])
def network(request):  # type: ignore[no-untyped-def]
    shape = (3, 32, 32) if request.param == "resnet20" else (3, 64, 64)
    model = resolve(request.param, {}).eval()
    return model, trace(model, shape)


@pytest.mark.parametrize("most", [1, 3, 10, 16, 24, 64, 100, 144, 512, 1280])
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_side_has_few_points_and_ends_at_the_whole(most: int, multiple: int) -> None:
    found = points(most * multiple, multiple)
    assert found[-1] == most * multiple and found[0] >= multiple and len(found) <= 10
    assert (np.diff(found) > 0).all() and not (found % multiple).any()


def test_between_its_points_a_grid_is_linear_in_both() -> None:
    rows, columns = np.array([2, 4, 8]), np.array([1, 5])
    grid = Grid(rows, columns, 3.0 * rows[:, None] + 2.0 * columns + rows[:, None] * columns)
    r, c = np.array([2, 3, 7, 8, 1, 9]), np.array([1, 2, 5, 3, 1, 4])
    np.testing.assert_allclose(grid.at(r, c), 3 * r + 2 * c + r * c)
    alone_ = Grid(np.array([10]), np.array([64]), np.array([[0.5]]))
    assert alone_.at(np.array([10.0]), np.array([64.0])) == 0.5


def test_what_is_linear_on_the_machine_is_foretold_exactly(network) -> None:  # type: ignore[no-untyped-def]
    model, graph = network
    lat = lattice(graph)
    machine = Machine(between=2e-6)
    table = build(model, graph, lat, machine)
    widths = spread(graph, lat, 6, seed=7)
    truth = [
        machine.network(cut(model, graph, _keep(graph, row)), graph.input_shape).median_ms
        for row in widths
    ]
    np.testing.assert_allclose(table(widths), truth, rtol=1e-6)
    assert table(widths[2]) == pytest.approx(truth[2], rel=1e-6)


def test_kinds_of_layers_are_timed_once(network, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path))
    model, graph = network
    lat, machine = lattice(graph), Machine()
    first = measured_table(model, graph, lat, machine)
    timed = machine.layers
    assert timed and len(first.lines) > len({line.kind for line in first.lines})
    again = measured_table(model, graph, lat, machine)
    assert machine.layers == timed
    np.testing.assert_array_equal(again(first.measured.widths), first(first.measured.widths))
    (kept,) = (tmp_path / "latency").iterdir()
    kept.write_text('{"format": 2, "grids": {"x": {"rows": [1], "columns": [], "ms": [[1]]}}}')
    measured_table(model, graph, lat, machine)  # a damaged file is no harm: timed again
    assert machine.layers == 2 * timed


def test_a_table_is_plain_json(network) -> None:  # type: ignore[no-untyped-def]
    model, graph = network
    lat = lattice(graph)
    table = build(model, graph, lat, Machine(lanes=8), fitted=5)
    again = from_json(to_json(table), graph)
    widths = spread(graph, lat, 9, seed=3)
    np.testing.assert_array_equal(again(widths), table(widths))
    assert again.layers(widths[3]) == table.layers(widths[3])


def test_stairs_are_found_where_the_machine_has_them() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    graph = trace(model, (3, 16, 16))
    lat = lattice(graph, divisor=4)
    machine = Machine(lanes=16)
    machine.between = 0.0
    table = build(model, graph, lat, machine, fitted=6)
    steps = falls(table, graph, lat, graph.index["0"])
    assert [step.width for step in steps] == [32, 28, 24, 20, 16, 12, 8, 4]
    assert steps[0].share == 1 and steps[4].ms < steps[3].ms
    flat = Machine(lanes=1)
    assert wasted(falls(build(model, graph, lat, flat), graph, lat, graph.index["0"])) == ()


@pytest.mark.parametrize(("lanes", "expected"), [(1, 4), (4, 4), (16, 16)])
def test_the_automatic_divisor_follows_the_stairs(lanes: int, expected: int) -> None:
    """On a machine of 16 lanes only multiples of 16 save time; on one without any step stays."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    graph = trace(model, (3, 16, 16))
    lat = lattice(graph, floor=0.1)
    found = followed(build(model, graph, lat, Machine(lanes), fitted=6), graph, lat)
    group = graph.index["0"]
    assert (lat.step[group], found.step[group]) == (4, expected)
    assert found.low[group] % expected == 0 and (found.high == lat.high).all()


def test_layers_of_a_real_network_run_alone_in_torch() -> None:
    """Shapes and arguments are right where every layer of a network runs with cut channels."""
    model = resolve("torchvision:mobilenet_v2", {}).eval()
    graph = trace(model, (3, 64, 64))
    calls = layer_calls(model, graph)
    assert len(calls) == len(graph.layers)
    macs = 0
    for call in calls:
        x = torch.zeros(call.input_shape(call.rows, call.columns, 1))
        weight = torch.zeros(call.rows, call.columns, *call.filter.kernel)
        out = call.filter.apply(x, weight, None)
        macs += out[0].numel() * weight[0].numel() if call.filter.kernel else weight.numel()
    assert macs == Cost(graph).base_macs
    assert Torch().layer(calls[3], 8, calls[3].columns) > 0


def test_one_measures_at_a_time() -> None:
    order = []
    inside = threading.Event()

    def other() -> None:
        inside.wait()
        with alone("test"):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with alone("test"):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def _keep(graph, widths):  # type: ignore[no-untyped-def]
    units = widths // np.maximum(graph.granularity, 1)
    return tuple(np.arange(count) for count in units)


def test_what_the_caches_do_not_hold_is_found_in_whole_networks() -> None:
    """Layers alone are twice as fast as in a network whose weights come from further away."""
    rng = np.random.default_rng(0)
    weights = np.sort(rng.uniform(1e4, 1e6, 80))
    features = np.stack([weights * rng.uniform(0.5, 1.5, 80), rng.uniform(1, 9, 80), weights], 1)
    some = np.arange(0, 80, 4)
    held = 0.1 * weights[some].max()
    truth = features @ [1.2, 0.5, 0.1] + 3.0 * np.maximum(weights - held, 0) + 400.0
    found = rest.fit(features[some], truth[some])
    assert found.held == pytest.approx(held)
    np.testing.assert_allclose(found(features), truth, rtol=1e-5)
    plain = rest.fit(features[some], truth[some] - 3.0 * np.maximum(weights[some] - held, 0))
    assert plain.held == np.inf and plain.per_weight == pytest.approx(0.1, rel=1e-3)
