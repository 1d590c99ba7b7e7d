"""INT8 files and the other formats: they run where they are meant to, and say what they lose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pruning.models import checkpoint, registry, weights
from search import tasks
from search.cli import main
from search.config import Config
from search.data import DataConfig, Given, Splits, splits
from search.deploy import formats, int8, onnx
from search.deploy.signature import signature
from search.trial import latency
from tests.search.runs import make_rows, make_run
from tests.search.tasks.sums import Sums

INFO = checkpoint.ModelInfo(
    model="resnet20",
    args={},
    input_shape=(3, 32, 32),
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    widths={},
    digest="",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", make_rows(4))
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MEASURE_S", 0.01)


def test_int8_files_stand_beside_the_float_ones(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx as library
    import onnxruntime

    assert main(["export", str(run), "--format", "onnx", "--int8", "--point", "0", "--json"]) == 0
    *_, whole, small = json.loads(capsys.readouterr().out)["written"]
    path = run / "points/000/model-int8.onnx"
    assert small["file"] == str(path)
    assert small["int8_bytes"] == path.stat().st_size < whole["bytes"]

    proto = library.load(path)
    library.checker.check_model(proto, full_check=True)
    weights = [t for t in proto.graph.initializer if t.data_type == library.TensorProto.INT8]
    scales = {n.input[0]: n.input[1] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    sizes = {t.name: int(np.prod(t.dims)) for t in proto.graph.initializer}
    filters = [t for t in weights if len(t.dims) == 4]
    assert filters, "convolutions hold 8-bit weights"
    assert all(sizes[scales[t.name]] == t.dims[0] for t in filters), "a scale for each filter"

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand(5, 1, 8, 8).numpy()
    assert session.run(["logits"], {"images": images})[0].shape == (5, 10)
    assert 'InferenceSession("model.onnx")' in (run / "points/000/README.txt").read_text()


def test_int8_columns_of_all_points_and_of_one_later(run: Path) -> None:
    table = run / "frontier.parquet"
    assert main(["export", str(run), "--format", "onnx", "--int8"]) == 0
    first = pq.read_table(table).to_pylist()
    assert all(0 <= row["int8_score_val"] <= 1 and row["int8_bytes"] > 0 for row in first)
    assert main(["export", str(run), "--format", "onnx", "--int8", "--point", "0"]) == 0
    second = pq.read_table(table).to_pylist()
    assert [row["int8_score_val"] for row in second] == [row["int8_score_val"] for row in first]
    assert "int8_score_val" in (run / "frontier.csv").read_text().splitlines()[0]


def test_int8_that_loses_more_than_its_tolerance_is_named(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "_scores", lambda runs, task, split: (0.9, 0.85))
    command = ["export", str(run), "--format", "onnx", "--int8", "--point", "0"]
    assert main([*command, "--int8-tolerance", "0.06"]) == 0
    assert "more than --int8" not in capsys.readouterr().out
    assert main(command) == 0
    assert "loses 5.00 points on val as INT8" in capsys.readouterr().out


def test_int8_belongs_to_onnx(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--format", "torch-export", "--int8"]) == 2
    assert "--int8 belongs to --format onnx" in capsys.readouterr().err


def test_resnet20_as_int8_on_cifar10(shared: Path, tmp_path: Path) -> None:
    """On a thousand val images within a point, and 3.5 times smaller."""
    net = registry.resolve("resnet20")
    weights.load_weights(net, shared / "weights/cifar10/resnet20_45k.safetensors")
    path = str(tmp_path / "model.onnx")
    onnx.write_onnx(net.eval(), INFO, signature(net, INFO), path)
    data = DataConfig(name="cifar10", root=str(shared / "data/cifar10"), val="last:5000")
    found = splits.load(data)
    few, some = found.train.subset(np.arange(256)), found.val.subset(np.arange(1000))
    config = Config(data=data)
    task = tasks.load(config, Given(splits=Splits(few, some, found.test)))
    work = tasks.open_task(task, config, "cpu")
    done = int8.deploy(Path(path).read_bytes(), work, None)
    assert done.val[0] > 0.89
    assert abs(done.loss) <= 0.01
    assert Path(path).stat().st_size / done.bytes >= 3.5


@pytest.mark.parametrize("name", ["onnx-fp16", "openvino"])
def test_other_formats_agree_and_say_how_to_use_them(
    name: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    command = ["export", str(run), "--format", name, "--point", "0", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["written"][1]
    kind = formats.get(name)
    folder = run / "points/000"
    assert found["deviation"] <= kind.tolerance
    assert found["bytes"] == sum((folder / f).stat().st_size for f in (kind.file, *kind.beside))
    *_, recipe = (folder / "README.txt").read_text().split("\n\n")
    monkeypatch.chdir(folder)
    scope = {"images": torch.rand(3, 1, 8, 8).numpy()}
    exec(recipe, scope)
    assert scope["logits"].shape == (3, 10)


class Named(Sums):
    """Its network answers in a dictionary, as torchvision's of segmentation do."""

    def model(self) -> nn.Module:
        class Answer(nn.Module):
            def __init__(self, body: nn.Module) -> None:
                super().__init__()
                self.body = body

            def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
                found = self.body(x)
                return {"out": found, "aux": 2 * found}

        return Answer(super().model())

    def evaluate(self, model: nn.Module, split: str) -> Any:
        return super().evaluate(lambda x: model(x)["aux"] / 2, split)  # type: ignore[arg-type]


def test_int8_of_a_network_with_named_outputs_is_scored_by_its_task(tmp_path: Path) -> None:
    config = Config(task="user:Named")
    work = tasks.open_task(Named(), config, "cpu")
    net = Named().model().eval()
    info = replace(INFO, model="user:Named", input_shape=(1, 8, 8), mean=(0.0,), std=(1.0,))
    whole = onnx.deploy(net, info, formats.get("onnx"), str(tmp_path), ())
    source = Path(whole.place).read_bytes()
    assert onnx.form_of(source) == {"out": "out", "aux": "aux"}
    done = int8.deploy(source, work, str(tmp_path / int8.FILE), ())
    assert done.val[0] == pytest.approx(work.score(net), rel=1e-3)
    assert done.val[1] == pytest.approx(done.val[0], rel=0.2)
