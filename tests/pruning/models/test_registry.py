"""Networks by name: sizes and structure, learning, factories of anyone's own, bad input."""

from __future__ import annotations

import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

from pruning import trace
from pruning.errors import UserError
from pruning.models import registry

# million MACs of conv and linear layers, million parameters
SIZES = {
    "resnet20": (40.81, 0.272),
    "resnet32": (69.12, 0.467),
    "resnet44": (97.44, 0.661),
    "resnet56": (125.75, 0.856),
    "resnet110": (253.15, 1.731),
    "vgg16_bn": (313.20, 14.724),
    "mobilenet_v2": (87.98, 2.237),
    "densenet40": (264.81, 1.020),
    "digits": (1.12, 0.043),
}


def image_shape(name: str) -> tuple[int, int, int]:
    return (1, 8, 8) if name == "digits" else (3, 32, 32)


def test_registry_lists_every_network() -> None:
    assert set(registry.registry()) == set(SIZES)
    assert registry.names()[: len(SIZES)] == tuple(registry.registry())
    assert "torchvision:resnet50" in registry.names()
    assert "torchvision:fcn_resnet50" in registry.names()


@pytest.mark.parametrize("name", SIZES)
def test_size(name: str) -> None:
    model = registry.resolve(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = model(torch.randn(1, *image_shape(name)))
    macs, params = SIZES[name]
    assert out.shape == (1, 10)
    assert counter.get_total_flops() / 2e6 == pytest.approx(macs, abs=0.01)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, abs=0.001)


@pytest.mark.parametrize("name", SIZES)
def test_classes_and_channels(name: str) -> None:
    model = registry.resolve(f"zoo:{name}", {"num_classes": 7, "in_channels": 2}).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 2, *image_shape(name)[1:])).shape == (1, 7)


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "mobilenet_v2"])
def test_names_are_torchvisions(name: str) -> None:
    whole = (
        torchvision.models.resnet18()
        if name == "resnet20"
        else registry.resolve(f"torchvision:{name}")
    )
    theirs = set(whole.state_dict())
    depths = ("layer1.2", "layer2.2", "layer3.2", "classifier")
    ours = {n for n in registry.resolve(name).state_dict() if not n.startswith(depths)}
    assert ours <= theirs


@pytest.mark.parametrize("block", [0, 1])
def test_residual_blocks_are_torchvisions(block: int) -> None:
    ours = registry.resolve("resnet20").get_submodule(f"layer2.{block}").eval()
    shortcut = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    theirs = BasicBlock(32, 32) if block else BasicBlock(16, 32, 2, shortcut)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 32 if block else 16, 8, 8)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs.eval()(x))


def test_mobilenet_is_torchvisions_but_for_strides() -> None:
    ours, theirs = (
        registry.resolve("mobilenet_v2"),
        registry.resolve("torchvision:mobilenet_v2", {"num_classes": 10}),
    )
    theirs.load_state_dict(ours.state_dict())
    for name in ("features.0.0", "features.2.conv.1.0"):
        setattr(theirs.get_submodule(name), "stride", (1, 1))  # noqa: B010
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_dense_layers_see_all_earlier_channels() -> None:
    model = registry.resolve("densenet40")
    inputs = [
        m.in_channels
        for m in model.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    blocks = [list(range(start, start + 144, 12)) for start in (16, 160, 304)]
    assert inputs == [3, *blocks[0], *blocks[1], *blocks[2]]


def test_digits_learns_and_has_groups_to_prune() -> None:
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(labels)
    train, test = train_test_split(range(len(y)), test_size=0.2, random_state=0, stratify=y)
    torch.manual_seed(0)
    model = registry.resolve("digits")
    assert len(trace(model, (1, 8, 8)).groups) == 6
    _train(model, x[train], y[train], epochs=5)
    with torch.no_grad():
        hits = model.eval()(x[test]).argmax(1) == y[test]
    assert hits.float().mean() >= 0.97


def _train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, batch: int = 64) -> None:
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for rows in order[: len(x) // batch * batch].view(-1, batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "resnet18"])
def test_torchvision_networks_give_one_output(name: str) -> None:
    model = registry.resolve(f"torchvision:{name}", {"num_classes": 3})
    assert not any(n.lower().startswith("aux") for n, _ in model.named_modules())
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 96, 96)).shape == (1, 3)


@pytest.mark.parametrize(
    ("spec", "args", "words"),
    [
        ("resnet50", {}, ["torchvision:resnet50", "resnet56"]),
        ("zoo:resnet2O", {}, ["resnet20"]),
        ("torchvision:resnet5O", {}, ["torchvision:resnet50"]),
        ("quite_else", {}, ["known are", "densenet40"]),
        ("resnet20", {"classes": 3}, ["classes", "model.args"]),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, ["'weights'", "model.weights"]),
        ("torch.nn:Identity", {}, ["trust"]),
    ],
)
def test_bad_names_and_arguments(spec: str, args: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        registry.resolve(spec, args)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module:net", "PYTHONPATH"),
        ("torch.nn:NoSuchNet", "PYTHONPATH"),
        ("collections:Counter", "must return nn.Module"),
    ],
)
def test_bad_trusted_factories(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        registry.resolve(spec, trust=True)


def test_trusted_factory() -> None:
    model = registry.resolve("torch.nn:Linear", {"in_features": 3, "out_features": 2}, trust=True)
    assert isinstance(model, nn.Linear)


def test_timm_without_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"slimfront\[timm\]"):
        registry.resolve("timm:resnet18")


def test_timm_network() -> None:
    timm = pytest.importorskip("timm")
    assert type(registry.resolve("timm:resnet18")) is type(timm.create_model("resnet18"))
    with pytest.raises(UserError, match="timm:resnet18"):
        registry.resolve("timm:resnet1B")


@pytest.mark.parametrize(
    ("spec", "args", "words"),
    [
        ("sys:exit", {}, "sys:exit ended with SystemExit"),
        ("os:getlogin_", {}, "PYTHONPATH"),
        ("json:loads", {"s": "{"}, "cannot build|ended with"),
        ("operator:truediv", {}, "cannot build"),
        ("os:stat", {"path": "/no/such"}, "ended with FileNotFoundError"),
        ("os:cpu_count", {}, "must return nn.Module"),
    ],
)
def test_finding_7_10_whatever_a_factory_does_is_one_line(
    spec: str, args: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        registry.resolve(spec, args, trust=True)
