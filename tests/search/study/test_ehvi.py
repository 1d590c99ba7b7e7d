"""The sampler that models the accuracy: its process, its gains, its proposals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from search.pareto import front
from search.pareto.front import Reference
from search.storage.ledger import Ledger
from search.storage.row import Outcome
from search.study.candidate import Limits, Seed, StudyOptions
from search.study.ehvi import Inputs, Networks, Surrogate, gaussian_process, sampler
from search.study.ehvi.improvement import Steps
from search.study.study import Study
from search.study.width_space import WidthSpace
from tests.search.spaces import accuracy, network

RNG = np.random.default_rng(0)


def test_the_process_is_scikit_learn_s_but_for_its_trend(monkeypatch):
    monkeypatch.setattr(gaussian_process, "TREND", 0.0)
    monkeypatch.setattr(gaussian_process, "SLOPE", 0.0)
    X, new = RNG.normal(size=(30, 3)), RNG.normal(size=(10, 3))
    y, scale = np.sin(X).sum(1), RNG.uniform(0.5, 2, 30)
    hyper = gaussian_process.Hyperparameters(np.array([0.8, 1.5, 2.0]), 0.7, 0.02)
    kernel = ConstantKernel(0.7) * Matern(hyper.lengths, nu=2.5)
    noise = 0.02 * scale + gaussian_process.JITTER
    theirs = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(X, y)
    mean, std = theirs.predict(new, return_std=True)
    ours = gaussian_process.GaussianProcess(X, y, scale, hyper).predict(new)
    assert ours[0] == pytest.approx(mean, abs=1e-9) and ours[1] == pytest.approx(std, abs=1e-7)


def test_the_trend_goes_on_where_there_is_no_data():
    """Quadratic in the first input, linear in the others."""
    X = RNG.normal(size=(60, 2))

    def truth(X):
        return 0.8 * X[:, 0] - 0.3 * X[:, 0] ** 2 + 0.2 * X[:, 1]

    ones = np.ones(60)
    hyper = gaussian_process.fit(X, truth(X), ones)
    far = np.array([[5.0, 0.0], [-4.0, 3.0]])
    mean, _ = gaussian_process.GaussianProcess(X, truth(X), ones, hyper).predict(far)
    assert mean == pytest.approx(truth(far), abs=0.1)


def test_the_gradient_of_the_density_is_right():
    X = RNG.normal(size=(25, 3))
    loss = gaussian_process.density(X, np.sin(X).sum(1), RNG.uniform(0.5, 2, 25))
    for theta in (np.array([1.5, 1.0, 0.3, -2.0, -4.0]), np.zeros(5)):
        value, gradient = check_value = loss(theta)
        error = check_grad(lambda t: loss(t)[0], lambda t: loss(t)[1], theta)
        assert error < 1e-4 * (1 + np.abs(gradient).max()), check_value
        assert np.isfinite(value)


def test_gains_are_the_hypervolume_that_draws_add():
    macs, scores = np.array([0.2, 0.5, 0.7, 0.9]), np.array([0.6, 0.55, 0.8, 0.9])
    steps = Steps.around(macs, scores)
    assert steps.members.tolist() == [0, 2, 3]
    new, mean, std = np.array([0.1, 0.45, 0.75]), np.array([0.58, 0.7, 0.82]), np.array([0.03] * 3)
    expected = steps.gain(new, mean, std)
    reference = Reference(cost=1, gain=steps.floor)
    points = np.column_stack([macs, scores])
    before = front.hypervolume(points, reference)
    for i in range(3):
        draws = np.random.default_rng(i).normal(mean[i], std[i], 4000)
        added = [
            front.hypervolume(np.vstack([points, (new[i], a)]), reference) - before for a in draws
        ]
        # front.hypervolume is a share of the box above the reference point
        assert np.mean(added) * (1 - steps.floor) == pytest.approx(expected[i], rel=0.05)


def test_smoothed_accuracies_are_nearer_to_the_truth_than_measured_ones():
    graph, cost, lat = network("resnet20")
    space = WidthSpace(graph, cost, lat, offsets="stage")
    share = RNG.uniform(0.2, 1, (60, 1)) * RNG.uniform(0.7, 1.3, (60, len(graph.groups)))
    W = lat.snap(graph.widths * share)
    truth = np.array([accuracy(graph, w) for w in W])
    noisy = truth + RNG.normal(0, 0.01, len(W))
    inputs = Inputs(cost, graph.widths, list(space.members.values()))
    known = Networks(W, ("uniform",) * len(W), noisy)
    mean, std = Surrogate(inputs, known).predict(known)
    assert np.abs(mean - truth).mean() < 0.7 * np.abs(noisy - truth).mean()
    assert (std < 0.01).mean() > 0.8


def study_of(tmp_path, name: str = "resnet20", limits: Limits | None = None, **space) -> Study:
    graph, cost, lat = network(name)
    widths = WidthSpace(graph, cost, lat, limits=limits, **space)
    uniform = [lat.snap(graph.widths * share) for share in np.linspace(0.15, 1, 8)]
    seeds = [Seed(f"uniform {i}", "uniform", tuple(w.tolist())) for i, w in enumerate(uniform)]
    ledger = Ledger(tmp_path)
    options = StudyOptions(sampler="ehvi", seeds=seeds, limits=limits or Limits())
    return Study(widths, ledger, cost, lat, options)


def run(study: Study, trials: int, score=accuracy) -> None:
    graph = study.space.graph
    while study.finished < trials:
        candidate = study.ask()
        top1 = score(graph, candidate.widths)
        study.tell(candidate.trial_id, Outcome(status="complete", score_val=top1))


@pytest.mark.parametrize("space", [{}, {"offsets": "stage"}, {"methods": ["uniform", "peel"]}])
def test_parameters_stand_for_the_very_network_that_was_chosen(tmp_path, monkeypatch, space):
    study, chosen = study_of(tmp_path, **space), []
    params = sampler.Moves.params

    def noted(self, candidate):
        chosen.append(tuple(candidate.networks.W[0].tolist()))
        return params(self, candidate)

    monkeypatch.setattr(sampler.Moves, "params", noted)
    run(study, 20)
    sampled = [row for row in study.rows if row.proposal["source"] == "sampler"]
    assert [row.widths for row in sampled] == chosen and len(chosen) >= 12
    bound = study.space.offset_range
    for row in sampled:
        offsets = [v for k, v in row.proposal["params"].items() if k.startswith("o.")]
        assert all(abs(offset) <= bound for offset in offsets)


def test_nothing_is_proposed_in_vain(tmp_path):
    """Tight limits on MACs and parameters, eight workers: no row is infeasible or known."""
    _, cost, _ = network("resnet20")
    low, high = 0.3, 0.5
    limits = Limits(max_params=0.25 * cost.base_params)
    study = study_of(tmp_path, limits=limits, low=low, high=high)
    running = []
    while len(study.rows) < 40:
        while len(running) < 8:
            running.append(study.ask())
        candidate = running.pop(3)
        assert candidate.source.startswith("uniform") or (
            low * 0.999 <= cost.macs(np.array(candidate.widths)) / cost.base_macs <= high * 1.001
            and cost.params(np.array(candidate.widths)) <= limits.max_params
        )
        top1 = accuracy(study.space.graph, candidate.widths)
        study.tell(candidate.trial_id, Outcome(status="complete", score_val=top1))
    refused = [row for row in study.rows if row.status == "infeasible"]
    assert all(row.proposal["kind"] == "seed" for row in refused)
    assert len({row.arch_hash for row in study.rows}) == len(study.rows)
    assert not [row for row in study.rows if row.proposal["kind"] == "mutation"]


def test_it_keeps_away_from_what_is_measured_infeasible(tmp_path):
    """A limit on latency, which only running a network can tell."""
    study = study_of(tmp_path)
    cost = study.space.cost
    while study.finished < 50:
        candidate = study.ask()
        slow = cost.macs(np.array(candidate.widths)) > 0.5 * cost.base_macs
        top1 = accuracy(study.space.graph, candidate.widths)
        status = "infeasible" if slow else "complete"
        outcome = Outcome(status=status, widths=candidate.widths, score_val=top1, wall_s=1.0)
        study.tell(candidate.trial_id, outcome)
    late = study.rows[25:]
    assert sum(row.status == "infeasible" for row in late) <= 8


def test_it_finds_more_than_tpe(tmp_path):
    _, cost, _ = network("resnet20")
    reference = front.reference_point(cost.base_macs, 10)

    def steep(graph, widths) -> float:
        share = np.asarray(widths) / graph.widths
        weight = np.where(np.arange(len(share)) % 3, 0.2, 2.6) / len(share)
        return float(0.1 + 0.85 * np.exp(-0.15 * (weight * (1 / share - 1)).sum()))

    volumes = {}
    for name in ("ehvi", "tpe"):
        volumes[name] = []
        for seed in range(3):
            study = study_of(tmp_path / f"{name}{seed}")
            study.proposer.name, study.proposer.seed = name, seed
            run(study, 40, steep)
            volumes[name].append(front.hypervolume(front.points_of(study.rows), reference))
    assert np.mean(volumes["ehvi"]) > np.mean(volumes["tpe"]) + 0.002, volumes


def test_scores_that_are_no_shares_are_modelled_as_they_are(tmp_path):
    """PSNR in dB, say."""
    study = study_of(tmp_path)
    run(study, 14, lambda graph, widths: 30 + 10 * accuracy(graph, widths))
    assert len(study.rows) == 14
