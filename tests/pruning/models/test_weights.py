"""Weights: of files, over HTTP, as torchvision publishes them, and those that do not fit."""

from __future__ import annotations

import io
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor

from pruning.errors import UserError
from pruning.models import registry
from pruning.models import weights as trained


def test_weights_of_half_precision_become_the_models(tmp_path: Path) -> None:
    source, model = registry.resolve("resnet20"), registry.resolve("resnet20")
    half = {n: t.half() if t.is_floating_point() else t for n, t in source.state_dict().items()}
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(half, file, {"mean": "0.5"})
    assert trained.load_weights(model, file) == {"mean": "0.5"}
    assert all(torch.equal(t, half[n].to(t.dtype)) for n, t in model.state_dict().items())
    assert model.get_parameter("fc.weight").dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        (
            "resnet20",
            {"num_classes": 7},
            "10 classes, the network 7; --model.new_head true",
        ),
        ("resnet20", {"in_channels": 1}, "conv1.weight"),
        ("resnet32", {}, "lacks layer"),
        ("vgg16_bn", {}, "lacks features"),
    ],
)
def test_weights_of_another_network(
    name: str, args: dict[str, int], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(registry.resolve("resnet20").state_dict(), file)
    model = registry.resolve(name, args)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(UserError, match=words):
        trained.load_weights(model, file)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_unreadable_weights(tmp_path: Path) -> None:
    model = registry.resolve("digits")
    pickle = tmp_path / "weights.pth"
    torch.save(model.state_dict(), pickle)
    trained.load_weights(model, pickle)
    with pytest.raises(UserError, match="safetensors file"):
        trained.load_weights(model, pickle.rename(tmp_path / "weights.safetensors"))
    with pytest.raises(UserError, match="no file"):
        trained.load_weights(model, tmp_path / "missing.safetensors")


def test_weights_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    source, model = registry.resolve("digits"), registry.resolve("digits")
    safetensors.torch.save_file(source.state_dict(), tmp_path / "digits.safetensors", {"a": "b"})
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert trained.load_weights(model, f"{address}/digits.safetensors") == {"a": "b"}
        with pytest.raises(UserError, match="404"):
            trained.load_weights(model, f"{address}/missing.safetensors")
        server.shutdown()
    assert torch.equal(model.get_parameter("fc.weight"), source.get_parameter("fc.weight"))


@pytest.mark.parametrize("name", ["squeezenet1_1", "densenet121", "googlenet"])
def test_published_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file as torchvision publishes it, with old names and auxiliary heads, in its cache."""
    # random heads of GoogLeNet take seconds by default
    args = {"init_weights": False} if name == "googlenet" else {}
    source = torchvision.models.get_model(name, weights=None, **args)
    old = {
        n.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.")
        if "denselayer" in n
        else n: t
        for n, t in source.state_dict().items()
    }
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    url = torchvision.models.get_model_weights(name)["DEFAULT"].url
    torch.save(old, cache / url.rpartition("/")[2])
    model = registry.resolve(f"torchvision:{name}")
    metadata = trained.load_weights(model, "torchvision:IMAGENET1K_V1")
    assert metadata["mean"] == "0.485,0.456,0.406"
    theirs = source.state_dict()
    assert all(torch.equal(tensor, theirs[n]) for n, tensor in model.state_dict().items())


def test_published_weights_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    model = registry.resolve("torchvision:squeezenet1_1")
    with pytest.raises(UserError, match="TORCH_HOME"):
        trained.load_weights(model, "torchvision:DEFAULT")
    with pytest.raises(UserError, match="known are IMAGENET1K_V1"):
        trained.load_weights(model, "torchvision:IMAGENET1K_V9")
    with pytest.raises(UserError, match="torchvision:"):
        trained.load_weights(registry.resolve("resnet20"), "torchvision:DEFAULT")


@pytest.mark.parametrize("name", ["resnet20", "resnet20_45k", "resnet56", "vgg16_bn"])
def test_trained_weights_recognise_images(name: str, shared: Path) -> None:
    model = registry.resolve(name.partition("_45k")[0]).eval()
    metadata = trained.load_weights(model, shared / "weights" / "cifar10" / f"{name}.safetensors")
    mean, std = ([float(v) for v in metadata[key].split(",")] for key in ("mean", "std"))
    file = pq.ParquetFile(shared / "data" / "cifar10" / "test-00000-of-00001.parquet")
    rows = next(file.iter_batches(400)).to_pylist()
    images = [to_tensor(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")) for row in rows]
    with torch.no_grad():
        guesses = model(normalize(torch.stack(images), mean, std)).argmax(1)
    top1 = (guesses == torch.tensor([row["label"] for row in rows])).float().mean().item()
    # three standard errors of a mean of 400
    assert top1 == pytest.approx(float(metadata["test_top1"]) / 100, abs=0.045)
