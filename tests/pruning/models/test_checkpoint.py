"""One-file models: what is saved is what another process loads; anything else is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pruning import ChannelGraph, cut, trace
from pruning.errors import UserError
from pruning.models import checkpoint, files, registry
from pruning.models.checkpoint import ModelInfo
from pruning.models.tensors import read_tensors, write_tensors

CASES = {
    "digits": (1, 8, 8),
    "resnet20": (3, 32, 32),
    "vgg16_bn": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "densenet40": (3, 32, 32),
    "torchvision:resnet18": (3, 64, 64),
    "torchvision:regnet_x_400mf": (3, 64, 64),
}
CHILD = """
import sys, safetensors.torch, torch
from pruning.models import checkpoint
inputs = safetensors.torch.load_file(sys.argv[1] + "/inputs")
outputs = {}
with torch.no_grad():
    for name, x in inputs.items():
        outputs[name] = checkpoint.load(f"{sys.argv[1]}/{name}.safetensors")(x)
safetensors.torch.save_file(outputs, sys.argv[1] + "/outputs")
"""


def slim(spec: str, shape: tuple[int, ...]) -> tuple[nn.Module, ModelInfo]:
    """A network cut to a random half of its channels, with statistics that matter."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    base = registry.resolve(spec, {"num_classes": 5})
    for module in base.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), std=0.1)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2.0)
    graph = trace(base, shape)
    keep = tuple(
        np.sort(rng.choice(g.units, int(rng.integers(1, g.units + 1)), replace=False))
        for g in graph.groups
    )
    return cut(base, graph, keep).eval(), about(spec, shape, graph, graph.kept_widths(keep))


def about(spec: str, shape: tuple[int, ...], graph: ChannelGraph, widths: np.ndarray) -> ModelInfo:
    return ModelInfo(
        model=spec,
        args={"num_classes": 5},
        input_shape=shape,
        classes=5,
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
        widths={g.name: int(w) for g, w in zip(graph.groups, widths, strict=True)},
        digest=graph.digest(),
        extra={"method": "peel", "top1": 0.9},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of slim models, with outputs before saving and after loading in another process."""
    folder = tmp_path_factory.mktemp("models")
    inputs, outputs = {}, {}
    for spec, shape in CASES.items():
        model, information = slim(spec, shape)
        inputs[spec] = torch.randn(2, *shape)
        with torch.no_grad():
            outputs[spec] = model(inputs[spec])
        checkpoint.save(model, folder / f"{spec}.safetensors", information)
    safetensors.torch.save_file(inputs, folder / "inputs")
    safetensors.torch.save_file(outputs, folder / "expected")
    # as many threads as here, so that sums are added in the same order
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", CHILD, str(folder)], check=True, env=threads)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    model, information = slim("digits", CASES["digits"])
    checkpoint.save(model, tmp_path / "model.safetensors", information)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("spec", CASES)
def test_another_process_computes_the_same(spec: str, saved: Path) -> None:
    expected = safetensors.torch.load_file(saved / "expected")[spec]
    found = safetensors.torch.load_file(saved / "outputs")[spec]
    assert expected.std() > 1e-4  # not all alike, so equality says something
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", CASES)
def test_attributes_agree_with_tensors(spec: str, saved: Path) -> None:
    model = checkpoint.load(saved / f"{spec}.safetensors")
    assert not model.training
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            assert module.weight.shape == shape
            assert module.weight.is_contiguous()
    original = slim(spec, CASES[spec])[1]
    assert model.slimfront == original == checkpoint.info(saved / f"{spec}.safetensors")


def test_loading_leaves_the_callers_seed_alone(small: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    checkpoint.load(small)
    assert torch.equal(torch.rand(4), expected)


def test_dtype_and_added_bias_survive(tmp_path: Path) -> None:
    model, information = slim("digits", CASES["digits"])
    model = model.double().to(memory_format=torch.channels_last)
    width = information.widths["conv1"]
    bias = nn.Parameter(torch.randn(width, dtype=torch.float64))
    model.get_submodule("conv1").register_parameter("bias", bias)
    checkpoint.save(model, tmp_path / "model", information)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.load(tmp_path / "model")(x), model(x))


def test_file_uri(small: Path, tmp_path: Path) -> None:
    address = f"file://{tmp_path}/new/folder/model.safetensors"
    checkpoint.save(checkpoint.load(small), address, checkpoint.info(small))
    assert checkpoint.info(address) == checkpoint.info(small)
    state = read_tensors(small)[0]
    assert all(torch.equal(t, state[n]) for n, t in read_tensors(address)[0].items())
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["model.safetensors"]


def test_failed_write_leaves_the_old_file(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = small.read_bytes()
    model, information = checkpoint.load(small), checkpoint.info(small)
    disk, path = files.filesystem(small)

    class FullDisk:
        """The local disk, full at the moment the finished file would take its place."""

        def __getattr__(self, name: str) -> object:
            return getattr(disk, name)

        def move(self, src: str, dest: str) -> None:
            assert disk.get_file_info(src).size == len(before)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "filesystem", lambda _: (FullDisk(), path))
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(model, small, information)
    assert small.read_bytes() == before
    assert [p.name for p in small.parent.iterdir()] == [small.name]


@pytest.mark.parametrize("size", [0, 4, 60, 2000, -1])
def test_truncated_file(size: int, small: Path) -> None:
    small.write_bytes(small.read_bytes()[:size])
    for read in (checkpoint.load, checkpoint.info):
        with pytest.raises(UserError, match="damaged"):
            read(small)


def rewrite(path: Path, **changes: object) -> None:
    """Change fields of a file's ModelInfo; None takes one away."""
    state, metadata = read_tensors(path)
    fields = json.loads(metadata["info"]) | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    write_tensors(path, state, metadata | {"info": json.dumps(fields)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "resnet20"}, "does not fit resnet20"),
        ({"model": "torch.nn:Identity"}, "trust"),
        ({"model": "resnet2O"}, "did you mean"),
        ({"args": {"num_classes": 4}}, "fc.weight"),
        ({"widths": {"conv1": 17}}, "17 channels in conv1"),
        ({"widths": {"conv9": 1}}, "conv9"),
        ({"mean": None}, "damaged metadata"),
        ({"colour": "red"}, "damaged metadata"),
    ],
)
def test_file_that_contradicts_itself(changes: dict[str, object], words: str, small: Path) -> None:
    rewrite(small, **changes)
    with pytest.raises(UserError, match=words) as error:
        checkpoint.load(small)
    assert "\n" not in str(error.value)


def test_foreign_file_and_newer_format(small: Path) -> None:
    state, metadata = read_tensors(small)
    write_tensors(small, state, metadata | {"slimfront": "2"})
    with pytest.raises(UserError, match="upgrade slimfront"):
        checkpoint.info(small)
    write_tensors(small, state, {"format": "pt"})
    with pytest.raises(UserError, match=r"model\.weights"):
        checkpoint.load(small)
    with pytest.raises(UserError, match="no file"):
        checkpoint.info(small.with_name("missing"))


def test_missing_tensor(small: Path) -> None:
    state, metadata = read_tensors(small)
    del state["layer1.0.conv1.weight"]
    write_tensors(small, state, metadata)
    with pytest.raises(UserError, match=r"layer1\.0\.conv1"):
        checkpoint.load(small)


def test_own_factory_needs_trust_or_a_base(small: Path) -> None:
    x = torch.randn(2, 1, 8, 8)
    expected = checkpoint.load(small)(x)
    rewrite(small, model="pruning.models.cifar:digits")
    with pytest.raises(UserError, match="trust=True"):
        checkpoint.load(small)
    base = registry.resolve("digits", {"num_classes": 5})
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    assert torch.equal(checkpoint.load(small, trust=True)(x), expected)
    assert torch.equal(checkpoint.load(small, base=base)(x), expected)
    assert all(torch.equal(t, before[n]) for n, t in base.state_dict().items())
