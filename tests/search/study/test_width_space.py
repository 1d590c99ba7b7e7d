from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from pruning.errors import UserError
from search.study.method_space import MethodSpace, MixedSpace
from search.study.samplers import neighbour
from search.study.width_space import RATIO, WidthSpace, complete
from tests.search.spaces import Scalar, network

SCALARS = {"cpmc": {"a": Scalar(0.0, 2.0), "b": Scalar(0.0, 2.0)}, "peel": {"a": Scalar(0.5, 1.0)}}


def draw(space, seed: int) -> dict:
    """Parameters as Optuna's random sampler draws them, choices before what depends on them."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    params: dict = {}
    while missing := {n: d for n, d in space.distributions(params).items() if n not in params}:
        params |= study.ask(fixed_distributions=missing).params
    return params


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("name", ["digits", "resnet20", "resnet56", "mobilenet_v2", "densenet40"])
def test_the_default_covers_the_mac_range_evenly(name):
    graph, cost, lat = network(name)
    space = WidthSpace(graph, cost, lat)
    shares = []
    for seed in range(300):
        params = draw(space, seed)
        proposal = space.resolve(params)
        macs = cost.macs(np.array(proposal.widths))
        assert macs <= proposal.asked == round(params[RATIO] * cost.base_macs)
        shares.append(macs / cost.base_macs)
    assert min(shares) < 0.055 and max(shares) > 0.9
    counts, _ = np.histogram(np.log(np.maximum(shares, 0.045)), np.linspace(np.log(0.045), 0, 9))
    assert counts.sum() == 300 and counts.min() > 300 / 8 / 3


@pytest.mark.parametrize("offsets", ["stage", "group"])
@pytest.mark.parametrize("seed", range(10))
def test_resolved_widths_are_on_the_lattice_and_use_up_the_macs(offsets, seed):
    graph, cost, lat = network("resnet20")
    space = WidthSpace(graph, cost, lat, offsets=offsets)
    params = draw(space, seed)
    proposal = space.resolve(params)
    widths = np.array(proposal.widths)
    np.testing.assert_array_equal(lat.snap(widths), widths)
    macs = cost.macs(widths)
    assert 0.7 * proposal.asked < macs <= proposal.asked
    larger = space.resolve(params | {RATIO: min(params[RATIO] * 1.3, 1.0)})
    assert (np.array(larger.widths) >= widths).all()


def test_offsets_multiply_the_shares_of_their_groups():
    graph, cost, lat = network("vgg16_bn")
    space = WidthSpace(graph, cost, lat, offsets="stage")
    plain = dict.fromkeys(space.distributions(), 0.0) | {RATIO: 0.2}
    name, members = next(iter(space.members.items()))
    low, high = (
        np.array(space.resolve(plain | {name: o}).widths) / graph.widths for o in (-0.5, 0.5)
    )
    rest = [g for g in range(len(graph.groups)) if g not in members]
    ratios = [(share[members].mean() / share[rest].mean()) for share in (low, high)]
    assert ratios == pytest.approx([0.5, 1.5], rel=0.1)


def test_stages_keep_streams_apart_and_every_group_has_one():
    graph, cost, lat = network("resnet56")
    space = WidthSpace(graph, cost, lat)
    assert sorted(i for m in space.members.values() for i in m) == list(range(len(graph.groups)))
    sizes = sorted(len(members) for members in space.members.values())
    assert sizes == [1, 1, 1, 9, 9, 9]
    for members in space.members.values():
        assert len(set(graph.widths[members])) == 1


def test_few_groups_have_offsets_of_their_own():
    graph, cost, lat = network("resnet20")
    space = WidthSpace(graph, cost, lat)
    assert list(space.distributions()) == [RATIO, *(f"o.{g.name}" for g in graph.groups)]
    assert not any("/" in name for name in space.distributions())


@pytest.mark.parametrize(("name", "offsets"), [("digits", "group"), ("resnet56", "group")])
def test_encoded_widths_decode_to_themselves(name, offsets):
    """Exact for every vector whose shares lie within the offsets' reach of a common scale."""
    graph, cost, lat = network(name)
    space = WidthSpace(graph, cost, lat, offsets=offsets)
    rng = np.random.default_rng(0)
    tried = 0
    for _ in range(400):
        scale = np.exp(rng.uniform(np.log(0.3), 0))
        widths = lat.snap(graph.widths * scale * rng.uniform(0.5, 1.5, len(graph.groups)))
        share = widths / graph.widths
        if cost.macs(widths) < space.low * cost.base_macs or share.max() / share.min() > 1.7 / 0.3:
            continue
        params = space.encode(widths)
        assert complete(space, params) is not None
        assert space.resolve(params).widths == tuple(widths)
        tried += 1
    assert tried > 200


@pytest.mark.parametrize("offsets", ["none", "group"])
def test_uniform_widths_encode_without_offsets(offsets):
    graph, cost, lat = network("vgg16_bn")
    space = WidthSpace(graph, cost, lat, offsets=offsets)
    for ratio in (0.25, 0.5, 0.75, 1.0):
        widths = lat.snap(graph.widths * ratio)
        assert space.resolve(space.encode(widths)).widths == tuple(widths)


def test_what_cannot_be_represented_is_encoded_close_by():
    graph, cost, lat = network("resnet56")
    space = WidthSpace(graph, cost, lat, offsets="stage")
    rng = np.random.default_rng(3)
    for _ in range(50):
        widths = lat.snap(graph.widths * rng.uniform(0.2, 1, len(graph.groups)))
        params = space.encode(widths)
        assert complete(space, params) is not None
        decoded = cost.macs(np.array(space.resolve(params).widths))
        assert 0.9 < decoded / cost.macs(widths) <= 1
    tiny = space.encode(lat.low)
    assert complete(space, tiny) is not None and tiny[RATIO] == space.low


def test_parameters_from_elsewhere_are_not_complete():
    graph, cost, lat = network("digits")
    space = WidthSpace(graph, cost, lat)
    params = draw(space, 0)
    assert complete(space, params)
    assert complete(space, params | {RATIO: 1.5}) is None
    assert complete(space, params | {"o.unknown": 0.0}) is None
    assert complete(space, {RATIO: 0.5}) is None
    assert complete(space, params | {RATIO: "half"}) is None


def test_limits_that_no_width_meets_are_refused():
    graph, cost, lat = network("digits")
    with pytest.raises(UserError, match="reachable"):
        WidthSpace(graph, cost, lat, low=0.0, high=1e-6)
    with pytest.raises(UserError, match="offset_range"):
        WidthSpace(graph, cost, lat, offset_range=1.5)


def test_threshold_asks_only_for_the_scalars_of_its_method():
    graph, cost, lat = network("digits")
    space = MethodSpace(
        cost,
        lat,
        SCALARS,
        allocate=lambda method, macs, scalars: lat.snap(graph.widths * scalars["a"]),
        selecting=["cpmc", "peel"],
    )
    assert set(space.distributions()) == {RATIO, "method", "cpmc.a", "cpmc.b", "peel.a"}
    seen = set()
    for seed in range(20):
        params = draw(space, seed)
        proposal = space.resolve(params)
        seen.add(proposal.method)
        assert set(params) == {RATIO, "method"} | {
            f"{proposal.method}.{n}" for n in proposal.scalars
        }
        assert proposal.widths == tuple(lat.snap(graph.widths * proposal.scalars["a"]))
        assert complete(space, params)
    assert seen == set(SCALARS)
    encoded = space.encode(lat.snap(graph.widths * 0.5), "peel")
    assert complete(space, encoded) and encoded["peel.a"] == 0.5


def test_scalars_that_select_nothing_are_no_part_of_a_network():
    graph, cost, lat = network("digits")

    def allocate(method, macs, scalars):
        return lat.snap(graph.widths * 0.5)

    space = MethodSpace(cost, lat, SCALARS, allocate=allocate, selecting=["cpmc"])
    found = [space.resolve(draw(space, seed)) for seed in range(20)]
    assert {p.method: bool(p.scalars) for p in found} == {"cpmc": True, "peel": False}
    assert len({(p.widths, tuple(p.scalars.items())) for p in found if p.method == "peel"}) == 1


def test_mixed_draws_both_kinds_and_round_trips():
    graph, cost, lat = network("digits")
    widths = WidthSpace(graph, cost, lat, methods=["uniform", "cpmc"])
    space = MixedSpace(widths, MethodSpace(cost, lat, SCALARS))
    kinds = set()
    for seed in range(20):
        params = draw(space, seed)
        proposal = space.resolve(params)
        kinds.add(proposal.kind)
        assert (proposal.widths is None) == (proposal.kind == "threshold")
        # what Optuna itself accepts as one trial
        create_trial(params=params, distributions=complete(space, params), value=0.0)
    assert kinds == {"widths", "threshold"}
    vector = lat.snap(graph.widths * 0.5)
    proposal = space.resolve(space.encode(vector, "cpmc"))
    assert (proposal.widths, proposal.method) == (tuple(vector), "cpmc")
    assert complete(space, {"kind": "neither"}) is None


def test_neighbours_are_other_allowed_widths_nearby():
    graph, _, lat = network("resnet56")
    rng = np.random.default_rng(0)
    start = lat.snap(graph.widths * 0.5)
    changed = []
    for _ in range(200):
        near = neighbour(lat, start, rng)
        np.testing.assert_array_equal(lat.snap(near), near)
        assert (np.abs(near - start) <= 2 * lat.step).all()
        changed.append((near != start).sum())
    assert 3 < np.mean(changed) < 6
