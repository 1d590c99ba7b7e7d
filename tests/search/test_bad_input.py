"""Bad input is refused before anything is written, and limits before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from search import runner
from search.tasks import classification
from search.trial import base_model
from tests.search.quick import quick, quiet

pytestmark = pytest.mark.usefixtures("ray_local")


def _corrupted(folder: Path) -> list[str]:
    path = folder / "weights.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0not safetensors")
    return [f"--model.weights={path}"]


def _seven_class_weights(folder: Path) -> list[str]:
    from pruning.models import write_tensors
    from pruning.models.registry import resolve

    path = folder / "weights.safetensors"
    state = {
        k: v.contiguous() for k, v in resolve("digits", {"num_classes": 7}).state_dict().items()
    }
    write_tensors(path, state, {})
    return [f"--model.weights={path}"]


def _empty_folder(folder: Path) -> list[str]:
    (folder / "data").mkdir()
    return ["--data.name=parquet", f"--data.root={folder / 'data'}", "--model.name=resnet20"]


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (_corrupted, "no safetensors file, or a damaged one"),
        (_seven_class_weights, "new_head"),
        (_empty_folder, "data"),
        (lambda folder: ["--model.weights=/nowhere/weights.safetensors"], "no file"),
        (lambda folder: ["--model.args={num_classes: 7}"], r"leave model\.args\."),
        (lambda folder: ["--search.max_macs=1k"], "cannot be met"),
        (lambda folder: ["--search.max_params=200"], "cannot be met"),
        (lambda folder: ["--resources.cpus_per_trial=64"], "lower resources.cpus_per_trial"),
    ],
)
def test_bad_input_leaves_nothing(
    tmp_path: Path, spoil: Callable[[Path], list[str]], remedy: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match=remedy) as caught:
        runner.run(quick(out, "--base.epochs=0.05", *spoil(tmp_path)), quiet())
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("max_macs=1k", r"max_macs 1k cannot be met: the smallest"),
        ("divisor=512", r"lower search\.min_ratio or search\.divisor"),
        ("max_params=200", r"max_params 200 cannot be met: the smallest"),
    ],
)
def test_limits_are_refused_before_the_base_model_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, remedy: str
) -> None:
    def train(*arguments: Any, **options: Any) -> None:
        raise AssertionError("minutes of training for nothing")

    monkeypatch.setattr(classification, "finetune", train)
    with pytest.raises(UserError, match=remedy):
        base_model.prepare(quick(tmp_path / "run", f"--search.{flag}"))


def test_finding_7_10_a_base_model_that_diverges_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not train: .*lower the learning rate.*base\.lr"):
        base_model.prepare(quick(tmp_path / "run", "--base.lr=1e30"))
