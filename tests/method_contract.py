"""What every pruning method must do. Import this to test your own:

from tests.method_contract import check_method
check_method(MyMethod(), my_network, (3, 32, 32))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pruning.graph.surgery import cut
from pruning.graph.tracing import trace
from pruning.graph.widths import lattice
from pruning.methods import Batches, Method, Problem, State


def random_batches(shape: Sequence[int], classes: int = 10, count: int = 2) -> Batches:
    """A few reproducible batches of noise: enough for a contract, not for a result."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(16, *shape, generator=generator),
            torch.randint(classes, (16,), generator=generator),
        )
        for _ in range(count)
    ]


def check_method(
    method: Method,
    model: nn.Module,
    input_shape: Sequence[int],
    batches: Batches | None = None,
    targets: Sequence[float] = (0.7, 0.5, 0.3),
) -> None:
    """AssertionError where a method breaks its contract on this network."""
    model.eval()
    graph = trace(model, input_shape)
    problem = Problem(graph, lattice(graph))
    batches = batches or random_batches(input_shape)
    state = check_prepare(method, model, problem, batches)
    for scalar in method.scalars.values():
        assert scalar.low <= scalar.default <= scalar.high
        assert not scalar.log or scalar.low > 0
    for share in targets:
        widths = check_allocate(method, state, problem, share)
        check_select(method, model, state, problem, widths)


def check_prepare(method: Method, model: nn.Module, problem: Problem, batches: Batches) -> State:
    """Arrays only, the same each time, and the network as it was: weights, modes, gradients."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    state = method.prepare(model, problem.graph, batches)
    again = method.prepare(model, problem.graph, batches)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"prepare changed {name}"
    assert [module.training for module in model.modules()] == modes, "prepare changed a mode"
    assert [p.requires_grad for p in model.parameters()] == grads, "prepare changed requires_grad"
    assert all(not module._forward_hooks for module in model.modules()), "prepare left a hook"
    for name, array in state.items():
        assert isinstance(array, np.ndarray), f"{name} is no array"
        assert array.dtype != object, f"{name} holds objects"
        np.testing.assert_allclose(array, again[name], rtol=1e-4, atol=1e-6, err_msg=name)
    return state


def check_allocate(method: Method, state: State, problem: Problem, share: float) -> np.ndarray:
    """Widths on the lattice; at most the target, short of it by 0.5 % or one step at most."""
    cost, lat = problem.cost, problem.lattice
    target = share * cost.base_macs
    widths = method.allocate(state, problem, target)
    assert widths.dtype == np.int64
    assert widths.shape == lat.high.shape
    assert ((widths >= lat.low) & (widths <= lat.high)).all()
    assert ((widths % lat.step == 0) | (widths == lat.high)).all(), "off the lattice"
    macs = cost.macs(widths)
    one_up = np.tile(widths, (len(widths), 1))
    np.fill_diagonal(one_up, lat.up(widths))
    steps = cost.macs(one_up) - macs
    slack = max(0.005 * target, steps[steps > 0].max(initial=0))
    assert abs(macs - target) <= slack, f"{macs / target - 1:+.2%} of the target"
    return widths


def check_select(
    method: Method, model: nn.Module, state: State, problem: Problem, widths: np.ndarray
) -> None:
    """As many different units per group as the widths say, in order; the cut network runs."""
    keep = method.select(state, problem, widths)
    graph = problem.graph
    for group, units, width in zip(graph.groups, keep, widths, strict=True):
        assert len(units) * group.granularity == width, group.name
        assert (np.diff(units) > 0).all(), f"{group.name}: sorted, each once"
        assert units[0] >= 0, group.name
        assert units[-1] < group.units, group.name
    slim = cut(model, graph, keep)
    method.repair(slim, model, graph, state, keep)
    with torch.no_grad():
        outputs = slim.eval()(torch.zeros(2, *graph.input_shape))
    assert torch.isfinite(outputs).all()
