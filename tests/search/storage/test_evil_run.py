"""A run folder made to harm: what it names is never run, fetched or joined without the caller."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from pruning.errors import UserError
from pruning.models import checkpoint, registry
from pruning.models.tensors import read_tensors
from search import joining
from search.backend import cluster
from search.cli import main
from search.config.schema import Config, ModelConfig
from search.storage import files as storage
from search.trial import base_model
from tests.search.runs import make_rows, make_run


def _poison(file: Path, marker: Path) -> None:
    """A model file whose network is a command."""
    tensors, metadata = read_tensors(file)
    evil = replace(
        checkpoint.info(file), model="subprocess:run", args={"args": ["touch", str(marker)]}
    )
    file.write_bytes(safetensors.torch.save(tensors, {**metadata, "info": evil.to_json()}))


def _change(run: Path, **sections: dict[str, Any]) -> None:
    """Overwrite keys of run.json's configuration."""
    file = run / "run.json"
    record = json.loads(file.read_text())
    for section, keys in sections.items():
        record["config"][section] |= keys
    file.write_text(json.dumps(record))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def evil(tmp_path: Path, marker: Path) -> Path:
    """Its record gives consent, and every model file in it names a command."""
    run = tmp_path / "run"
    make_run(run, make_rows(6))
    for file in run.rglob("*.safetensors"):
        _poison(file, marker)
    command = {"name": "subprocess:run", "args": {"args": ["touch", str(marker)]}}
    _change(run, model=command | {"trust_factory": True})
    return run


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["compare", "RUN", "--budgets", "[0.5]", "--seeds", "1"], 2),
        (["export", "RUN", "--format", "onnx"], 2),
        (["export", "RUN", "--format", "torch-export", "--point", "0"], 2),
        (["export", "RUN", "--latency"], 2),
        (["export", "RUN", "--format", "csv"], 0),
        (["report", "RUN"], 0),
        (["frontier", "RUN"], 0),
        (["frontier", "RUN", "--knee", "--json"], 0),
        (["watch", "RUN", "--once"], 0),
        (["search", "digits", "--out", "RUN", "--trials", "1"], 2),
        (["search", "digits", "--search.warm_start", "RUN", "--out", "NEW"], 2),
    ],
)
def test_finding_7_1_no_command_runs_what_a_run_names(
    argv: list[str], code: int, evil: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"RUN": str(evil), "NEW": str(evil.parent / "new")}
    assert main([words.get(word, word) for word in argv]) == code
    assert not marker.exists()
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == (1 if code else 0), errors


def test_finding_7_1_weights_of_prune_are_weights_only(
    evil: Path, marker: Path, tmp_path: Path
) -> None:
    argv = ["prune", "digits", "--method", "uniform", "--finetune.epochs", "0", "--json"]
    argv += ["--model.weights", str(evil / "base.safetensors"), "--to", str(tmp_path / "slim.st")]
    assert main(argv) == 0
    assert not marker.exists()


def test_finding_7_1_consent_is_for_the_network_the_caller_names(evil: Path, marker: Path) -> None:
    """Trust in one's own factory is no trust in what base.safetensors names."""
    config = Config(model=ModelConfig(trust_factory=True), out=str(evil))
    base = base_model.prepare(config, str(evil / "base.safetensors"))
    assert base.info.model == "digits"
    assert not marker.exists()


def test_finding_7_1_the_caller_may_consent(
    evil: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError):  # what runs is no network
        checkpoint.load(evil / "base.safetensors", trust=True)
    assert marker.exists()


def test_finding_7_1_compare_joins_no_cluster_that_the_run_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    make_run(run, make_rows(6))
    _change(run, resources={"address": "ray://evil.example:10001", "storage_path": "/nowhere"})
    seen: list[Config] = []

    def connect(config: Config) -> None:
        seen.append(config)
        raise UserError("stop here")

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["compare", str(run)]) == 2
    assert main(["compare", str(run), "--address", "mine:6379"]) == 2
    assert [joining.address_of(config) for config in seen] == ["local", "mine:6379"]
    assert all(config.resources.storage_path is None for config in seen)


def test_finding_7_1_compare_reads_no_images_at_an_address_that_the_run_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    make_run(run, make_rows(6))
    _change(run, data={"name": "cifar10", "root": "s3://evil/images"})
    assert main(["compare", str(run)]) == 2
    assert "--data_root s3://evil/images" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["../../etc/passwd", "..", "points/..", "s3://b/../x", "/"])
def test_finding_7_1_a_row_names_no_file_outside_the_run(address: str, tmp_path: Path) -> None:
    found = storage.inside(str(tmp_path), address)
    assert ".." not in found
    assert not found or found.startswith(f"{tmp_path}/")


def test_finding_7_1_which_names_run_code() -> None:
    names = ("digits", "zoo:digits", "torchvision:resnet18", "timm:resnet18")
    assert not any(map(registry.runs_code, names))
    assert registry.runs_code("subprocess:run")
    assert registry.runs_code("zoo:subprocess:run")
