"""Every method on real networks: targets are met, widths are kept, the base model is left alone."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from pruning import methods, oneshot
from pruning.errors import UserError
from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.surgery import cut
from pruning.graph.widths import lattice
from pruning.methods import Method, Problem, State
from tests.pruning import sample_models

NETWORKS = ["resnet20", "vgg16_bn", "mobilenet_v2", "torchvision:resnet50"]
LIGHT: dict[str, dict[str, Any]] = {  # as little data as shows the same behaviour
    "balanced": {"images": 1, "points": 1},
    "cap": {"images": 4, "points": 2},
    "prunenet": {"steps": 2, "batch": 4, "images": 8, "statistics": 4, "bisections": 1},
}


def batches(network: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = sample_models.images(network, 8)
    return [(x[:4], torch.arange(4)), (x[4:], torch.arange(4, 8))]


def method(name: str) -> Method:
    return methods.METHODS[name](**LIGHT.get(name, {}))


@cache
def problem(network: str) -> Problem:
    graph = sample_models.graph(network)
    return Problem(graph, lattice(graph))


WIDE = ["vgg16_bn", "torchvision:resnet50"]


def drawn(graph: ChannelGraph) -> State:
    """What CaP and gain-curve measure, drawn: greedy orders of wide layers take minutes."""
    rng = np.random.default_rng(0)
    units = [group.units for group in graph.groups]
    return {
        "order": np.concatenate([rng.permutation(n) for n in units]),
        "gain": np.concatenate([np.sort(rng.exponential(size=n))[::-1] for n in units]),
        "drops": np.cumsum(rng.exponential(0.1, (len(units), 7)), axis=1) - 0.05,
    }


@cache
def state(network: str, name: str) -> State:
    if name in ("cap", "gain-curve") and network in WIDE:
        return drawn(sample_models.graph(network))
    before = {k: v.clone() for k, v in sample_models.model(network).state_dict().items()}
    found = method(name).prepare(
        sample_models.model(network), sample_models.graph(network), batches(network)
    )
    for key, value in sample_models.model(network).state_dict().items():
        assert torch.equal(value, before[key]), f"prepare changed {key}"
    assert all(p.grad is None for p in sample_models.model(network).parameters())
    return found


@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", methods.names())
def test_meets_mac_targets(name: str, network: str, share: float) -> None:
    p = problem(network)
    target = share * p.cost.base_macs
    widths = method(name).allocate(state(network, name), p, target)
    assert (widths == p.lattice.snap(widths)).all(), "allowed widths only"
    macs = p.cost.macs(widths)
    assert macs <= target
    if macs < 0.995 * target:
        for g, wider in enumerate(p.lattice.up(widths)):
            one = widths.copy()
            one[g] = wider
            full = wider == widths[g]
            assert full or p.cost.macs(one) > target, "a further step would have fitted"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", methods.names())
def test_selects_as_many_as_asked_and_repairs_in_place(name: str, network: str) -> None:
    p, net = problem(network), sample_models.model(network)
    method_, measured = method(name), state(network, name)
    widths = p.lattice.snap(
        p.graph.widths * np.random.default_rng(3).uniform(0.3, 1, len(p.graph.groups))
    )
    keep = method_.select(measured, p, widths)
    np.testing.assert_array_equal(p.graph.kept_widths(keep), widths)
    slim = cut(net, p.graph, keep)
    method_.repair(slim, net, p.graph, measured, keep)
    with torch.no_grad():
        assert torch.isfinite(slim(sample_models.images(network))).all()


@pytest.mark.parametrize("name", methods.names())
def test_measures_the_same_twice(name: str) -> None:
    again = method(name).prepare(
        sample_models.model("resnet20"), sample_models.graph("resnet20"), batches("resnet20")
    )
    first = state("resnet20", name)
    assert again.keys() == first.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)
        assert value.dtype != object


@pytest.mark.parametrize("name", methods.names())
def test_scalars_drive_the_widths_within_their_range(name: str) -> None:
    p, kind = problem("resnet20"), method(name)
    target = 0.5 * p.cost.base_macs if kind.needs_target else None
    for scalar, bounds in kind.scalars.items():
        assert bounds.low <= bounds.default <= bounds.high
        for value in (bounds.low, bounds.default, bounds.high):
            widths = kind.allocate(state("resnet20", name), p, target, **{scalar: value})
            assert (widths == p.lattice.snap(widths)).all()
            if target is not None:
                assert p.cost.macs(widths) <= target


@pytest.mark.parametrize("name", methods.names())
def test_a_target_below_the_narrowest_network_gives_that_network(name: str) -> None:
    p = problem("resnet20")
    widths = method(name).allocate(state("resnet20", name), p, 1.0)
    np.testing.assert_array_equal(widths, p.lattice.low)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("repair", ["auto", "feedback"])
@pytest.mark.parametrize("name", methods.names())
def test_a_gpu_makes_the_same_network(
    name: str, repair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    p, kind = problem("resnet20"), method(name)
    net = copy.deepcopy(sample_models.model("resnet20")).to("cuda")
    resident = [(x.to("cuda"), y.to("cuda")) for x, y in batches("resnet20")]
    measured = kind.prepare(net, p.graph, resident)
    assert {k: v.shape for k, v in measured.items()} == {
        k: v.shape for k, v in state("resnet20", name).items()
    }
    widths = kind.allocate(measured, p, 0.5 * p.cost.base_macs)
    there = oneshot.slim(net, p, kind, measured, widths, resident, repair=repair).model
    here = oneshot.slim(
        sample_models.model("resnet20"),
        p,
        kind,
        measured,
        widths,
        batches("resnet20"),
        repair=repair,
    ).model
    with torch.no_grad():
        expected, found = here(batches("resnet20")[0][0]), there(resident[0][0]).cpu()
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(UserError, match="balanced"):
        methods.get("balance")


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.get(n).scalars])
def test_scalars_reorder_a_group_only_where_the_method_says_so(name: str) -> None:
    own, found = method(name), problem("digits")
    measured = own.prepare(sample_models.model("digits"), found.graph, batches("digits"))
    widths = found.lattice.snap(found.graph.widths * 0.5)
    ends = [{n: getattr(s, end) for n, s in own.scalars.items()} for end in ("low", "high")]
    low, high = (own.select(measured, found, widths, **scalars) for scalars in ends)
    same = all(np.array_equal(a, b) for a, b in zip(low, high, strict=True))
    assert same is not own.scalars_select


@pytest.mark.parametrize("macs", ["50%", 0, -1])
def test_a_target_that_is_no_number_of_macs_is_refused(macs: Any) -> None:
    with pytest.raises(UserError, match="or a number of MACs"):
        oneshot.prune(sample_models.model("digits"), batches("digits"), macs=macs)
