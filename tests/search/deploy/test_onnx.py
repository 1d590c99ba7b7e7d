"""Exported models: they agree with PyTorch, or there is no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pruning import Samples, prune
from pruning.data import call
from pruning.errors import UserError
from pruning.models import checkpoint
from search.cli import main
from search.deploy import formats
from search.deploy import onnx as deploy
from search.deploy.onnx import Format
from search.deploy.signature import signature
from search.trial import latency


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MEASURE_S", 0.01)


def point(run: Path, rank: int = 0) -> nn.Module:
    return checkpoint.load(run / f"points/{rank:03d}/model.safetensors")


def onnx_needed() -> None:
    for name in formats.ONNX_PACKAGES:
        pytest.importorskip(name)


def test_onnx_of_a_point(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx_needed()
    import onnx
    import onnxruntime

    assert main(["export", str(run), "--format", "onnx", "--point", "0", "--json"]) == 0
    base, slim = json.loads(capsys.readouterr().out)["written"]
    path = run / "points/000/model.onnx"
    assert slim["file"] == str(path)
    assert slim["bytes"] == path.stat().st_size < base["bytes"]
    assert slim["deviation"] < deploy.TOLERANCE
    assert slim["latency_ms_b1"] > 0 and slim["latency_ms_b64"] > 0
    assert not (run / "model.onnx").exists() and base["file"] is None

    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "batch size is free"
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(facts["mean"]) == [0.3]
    assert json.loads(facts["widths"])["conv1"] < 16
    assert str(Path(__file__).parents[3]).encode() not in path.read_bytes(), "no machine's paths"

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand(5, 1, 8, 8)
    found = session.run(["logits"], {"images": images.numpy()})[0]
    with torch.inference_mode():
        wanted = point(run)(images).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_exported_program_of_a_point(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--format", "torch-export", "--knee", "--batch", "[2]"]) == 0
    text = capsys.readouterr().out
    assert "base model as torch-export" in text
    assert "agrees to" in text
    (path,) = run.glob("points/*/model.pt2")
    program = torch.export.load(str(path)).module()
    images = torch.rand(5, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(program(images), point(run, int(path.parent.name))(images))
    assert str(Path(__file__).parents[3]).encode() not in path.read_bytes()


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_file_that_disagrees_is_not_written(run: Path, tmp_path: Path, error: float) -> None:
    model = point(run)

    def wrong(path: str) -> deploy.Runner:
        def logits(images: np.ndarray) -> list[np.ndarray]:
            with torch.inference_mode():
                right = model(torch.from_numpy(images)).numpy()
            return [right + np.float32(error) * np.abs(right).max()]

        return logits

    kind = Format("odd", "model.odd", lambda m, i, how, path: open(path, "w").close(), wrong)
    target = tmp_path / "model.odd"
    with pytest.raises(UserError, match="differs from PyTorch"):
        deploy.deploy(model, checkpoint.info(run / "base.safetensors"), kind, str(target))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_says_so(run: Path, tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)

    info = checkpoint.info(run / "base.safetensors")
    with pytest.raises(UserError, match="digits cannot be exported as torch-export") as caught:
        deploy.deploy(Branching(), info, formats.get("torch-export"), str(tmp_path))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Pair(nn.Module):
    """Two images, numbers of words, and anchors that all samples share; outputs under names."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(1, 16, 3, padding=1)
        self.words = nn.Embedding(7, 12)
        self.head, self.depth = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 1, 1)

    def forward(
        self, image: torch.Tensor, second: torch.Tensor, words: Any = None, anchors: Any = None
    ) -> dict[str, Any]:
        x = (self.left(image) + self.right(second)).relu()
        boxes = (self.head(x).mean((2, 3))[:, None] + anchors).flatten(1)
        return {"depth": self.depth(x), "pair": (boxes, self.words(words).mean(1)), "count": 3}


def pair(keywords: bool) -> Any:
    image, second = torch.randn(4, 3, 8, 8), torch.randn(4, 1, 8, 8)
    words, anchors = torch.randint(0, 7, (4, 5)), torch.randn(3, 4)
    if keywords:
        return {"image": image, "second": second, "words": words, "anchors": anchors}
    return (image, second, words, anchors)


@pytest.mark.parametrize(("keywords", "name"), [(False, "onnx"), (True, "onnx"), (True, "program")])
def test_several_inputs_and_outputs_keep_their_names(
    keywords: bool, name: str, tmp_path: Path
) -> None:
    """Cut, saved, loaded and exported; the file says what goes in and how outputs were nested."""
    if name == "onnx":
        onnx_needed()
    torch.manual_seed(0)
    whole, example = Pair().eval(), pair(keywords)
    slim = prune(whole, Samples([example], []), macs=0.6, method="l2-global", divisor=1)
    slim.save(tmp_path / "slim.safetensors")
    model = checkpoint.load(tmp_path / "slim.safetensors", base=whole)
    info = checkpoint.info(tmp_path / "slim.safetensors")
    kind = formats.get("onnx" if name == "onnx" else "torch-export")
    done = deploy.deploy(model, info, kind, str(tmp_path), ())
    assert done.deviation < deploy.TOLERANCE
    how = signature(model, info)
    assert how.form == {"depth": "depth", "pair": ["pair_0", "pair_1"]}
    said = formats.usage(kind, info, how)
    assert "words: int64 [batch, 5]" in said and "anchors: float32 [3, 4]" in said
    assert "output pair_0: float32 [batch, 12]" in said
    if name != "onnx":
        return
    import onnxruntime

    session = onnxruntime.InferenceSession(done.place, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["image", "second", "words", "anchors"]
    assert deploy.form_of(Path(done.place).read_bytes()) == how.form
    parts = example.values() if keywords else example
    given = {each.name: part.numpy() for each, part in zip(how.inputs, parts, strict=True)}
    depth, boxes, _ = session.run(["depth", "pair_0", "pair_1"], given)
    with torch.no_grad():
        wanted = call(model, example)
    torch.testing.assert_close(wanted["depth"], torch.from_numpy(depth), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(wanted["pair"][0], torch.from_numpy(boxes), rtol=1e-3, atol=1e-4)


def test_a_network_without_a_tensor_in_its_output_is_one_line(run: Path, tmp_path: Path) -> None:
    class Counts(nn.Module):
        def forward(self, x: torch.Tensor) -> int:
            return 3

    info = checkpoint.info(run / "base.safetensors")
    with pytest.raises(UserError, match="digits gives a int without a tensor"):
        deploy.deploy(Counts(), info, formats.get("torch-export"), str(tmp_path))
