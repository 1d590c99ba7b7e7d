"""The front door from Python: own networks and images on real Ray, resume, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pruning
import search
from pruning.errors import UserError
from pruning.models import registry
from search.config.schema import Config, RecipeConfig
from search.storage.ledger import Ledger

QUICK: dict[str, Any] = {
    "trials": 4,
    "finetune": {"epochs": 0.5},
    "search": {"final_seeds": 0},
    "quiet": True,
}


class Net(nn.Module):
    """Of this test alone: no registry knows it, and one attribute is not in its weights."""

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(32)])
        self.head, self.slope = nn.Linear(32, 10), slope

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip((self.one, self.two), self.norms, strict=True):
            x = nn.functional.leaky_relu(norm(conv(x)), self.slope)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16 - 0.3
    return x, torch.tensor(digits.target)


@pytest.fixture(scope="module")
def net(images: tuple[Tensor, Tensor]) -> nn.Module:
    x, y = images
    torch.manual_seed(0)
    model = Net()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(8):
        for rows in torch.randperm(1200).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def splits(images: tuple[Tensor, Tensor]) -> dict[str, Any]:
    x, y = images
    return {
        "train": DataLoader(TensorDataset(x[:1200], y[:1200]), batch_size=64, shuffle=True),
        "val": [(x[1200:1300], y[1200:1300]), (x[1300:1500], y[1300:1500])],
        "test": (x[1500:], y[1500:]),
    }


@pytest.fixture(scope="module")
def found(
    net: nn.Module,
    splits: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    ray_local: None,
) -> search.Result:
    out = tmp_path_factory.mktemp("own") / "run"
    return search.run(net, **splits, out=out, **QUICK)


def test_the_caller_keeps_ray_and_network(
    found: search.Result, net: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    assert ray.is_initialized(), "a running Ray is joined and left running"
    assert found.finished and found.record["config"]["model"]["name"] == "user:Net"
    x, y = images
    top1 = float((net(x[1500:]).argmax(1) == y[1500:]).double().mean())
    assert found.record["base_score_test"] == pytest.approx(top1, abs=1e-9)


def test_points_load_and_score_what_their_rows_say(
    found: search.Result, net: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = (part[1500:] for part in images)
    assert len(found.points) >= 2
    for point in found.points:
        model = point.load()
        assert model.slope == net.slope, "what is no weight comes from the network itself"
        top1 = float((model(x).argmax(1) == y).double().mean())
        assert top1 == pytest.approx(point["score_test"], abs=1e-9)
        assert sum(p.numel() for p in model.parameters()) == point.params


def test_the_result_is_the_run(found: search.Result) -> None:
    stored = pq.read_table(f"{found.place}/frontier.parquet")
    apart = ["checkpoint"]  # in the run, and from here
    assert found.frontier.drop_columns(apart).equals(stored.drop_columns(apart))
    assert all(path.startswith(found.place) for path in found.frontier["checkpoint"].to_pylist())
    frame = found.frontier.to_pandas()
    assert list(frame["macs"]) == sorted(frame["macs"]) == [p.macs for p in found.points]
    assert found.trials.num_rows == QUICK["trials"]
    assert found.choose(at_most="100%").macs <= found.record["base_macs"]
    assert Path(found.report()).read_text().startswith("<!")
    (axes,) = found.plot().axes
    assert f"{len(found.points)} points" in axes.get_title()


def test_a_later_session_gives_the_network_again(found: search.Result, net: nn.Module) -> None:
    later = search.open_run(found.place)
    assert later.frontier.equals(found.frontier)
    with pytest.raises(UserError, match=r"user:Net was handed in .* again"):
        later.points[0].load()
    weights = later.points[0].load(net).state_dict()
    again = search.open_run(found.place, net).points[0].load().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    with pytest.raises(UserError, match=r"no run\.json"):
        search.open_run(Path(found.place) / "points")


def test_the_same_call_goes_on_and_another_network_is_refused(
    found: search.Result, net: nn.Module, splits: dict[str, Any]
) -> None:
    before = Ledger(found.place).rows()
    more = search.run(net, **splits, out=found.place, **QUICK | {"trials": 5})
    rows = Ledger(more.place).rows()
    assert len(rows) == 5 and rows[:4] == before
    with pytest.raises(UserError, match="another network, or of other weights"):
        search.run(Net().eval(), **splits, out=found.place, **QUICK)
    with pytest.raises(UserError, match=r"another model\.name \(user:Net there"):
        search.run(nn.Sequential(net), **splits, out=found.place, **QUICK)
    other = splits | {"val": splits["test"]}
    with pytest.raises(UserError, match="other images"):
        search.run(net, **other, out=found.place, **QUICK)
    with pytest.raises(UserError, match=r"another finetune\.lr"):
        search.run(net, **splits, out=found.place, **QUICK | {"finetune.lr": 0.01})


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({}, "needs images for the network"),
        ({"val": [1]}, "without train"),
        ({"train": ([1], [2]), "finetune": {"epochz": 1}}, r"finetune\.epochz"),
        ({"data": {"name": "digits"}, "model.weights": "w"}, "leave model.weights out"),
        ({"data": {"name": "digits"}, "trials": 0}, "trials 0"),
    ],
)
def test_bad_calls_are_refused_before_ray_starts(
    call: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=why):
        search.run(Net(), out=tmp_path / "run", **call)
    assert not (tmp_path / "run").exists()


def test_other_things_than_networks_are_refused() -> None:
    with pytest.raises(UserError, match="got a int"):
        search.run(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no configuration resnet"):
        search.run("resnet")
    with pytest.raises(UserError, match="handed in by a program"):
        registry.resolve("user:Net", trust=True)


def test_options_by_section_dotted_or_typed() -> None:
    from search import arguments

    made = [
        arguments.config("digits", (None, None, None), arguments.options("r", 3, options))
        for options in (
            {"finetune": {"epochs": 2.0}},
            {"finetune.epochs": 2.0},
            {"finetune": RecipeConfig(epochs=2.0, batch=64, lr=0.05, augment="shift")},
        )
    ]
    assert made[0] == made[1] and made[0].finetune.epochs == made[2].finetune.epochs == 2.0
    assert made[0].trials == 3 and made[0].out.endswith("/r")
    config = arguments.config(
        Config(trials=9), (None, None, None), arguments.options(None, None, {"seed": 4})
    )
    assert (config.trials, config.seed) == (9, 4)


FRESH = """
import sys, search
from search import run
assert not {"torch", "ray", "optuna"} & set(sys.modules), "the import costs nothing"
assert {"run", "open_run", "Config", "Result"} <= set(dir(search))
import asyncio

async def main():
    return run("digits", trials=1, out=sys.argv[1], quiet=True, **{"base.epochs": 1},
               search={"final_seeds": 0, "method": "uniform", "seeds": False})

result = asyncio.run(main())  # as in a notebook, with a loop running
import ray
assert not ray.is_initialized(), "a Ray of its own is shut down"
model = result.points[0].load()
print(len(result.points), sum(p.numel() for p in model.parameters()) == result.points[0].params)
"""


def test_from_a_program_s_main_on_a_ray_of_its_own(tmp_path: Path) -> None:
    code = [sys.executable, "-c", FRESH, str(tmp_path / "run")]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "True"]
    assert isinstance(pruning.load(tmp_path / "run/points/000/model.safetensors"), nn.Module)
