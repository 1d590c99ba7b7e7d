"""Weights as people have them: torch.save, wrappers, prefixes, another head, NaN."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pruning.errors import UserError
from pruning.models import registry, weights

State = dict[str, torch.Tensor]


def parallel(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda state: state, []),
        (parallel, ["without their prefix module."]),
        (lambda state: {"state_dict": state, "epoch": 3}, ["weights taken from 'state_dict'"]),
        (
            lambda state: {"model": {"state_dict": parallel(state)}, "optimizer": {"lr": 0.1}},
            ["'state_dict' in 'model'", "prefix module."],
        ),
        (
            lambda state: {f"module._orig_mod.{n}": t for n, t in state.items()},
            ["prefix module._orig_mod."],
        ),
    ],
)
@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt"])
def test_finding_8_9_weights_of_torch_save(
    wrap: Any, words: list[str], ending: str, tmp_path: Path
) -> None:
    source, model, said = registry.resolve("digits"), registry.resolve("digits"), list[str]()
    file = tmp_path / f"weights{ending}"
    torch.save(wrap(source.state_dict()), file)
    weights.load_weights(model, file, say=said.append)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])
    assert len(said) == len(words)
    assert all(word in line and "\n" not in line for word, line in zip(words, said, strict=True))


def test_finding_8_9_prefixes_in_safetensors(tmp_path: Path) -> None:
    source, model, said = registry.resolve("digits"), registry.resolve("digits"), list[str]()
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(parallel(source.state_dict()), file)
    weights.load_weights(model, file, say=said.append)
    assert torch.equal(model.get_parameter("fc.weight"), source.get_parameter("fc.weight"))
    assert ["module." in line for line in said] == [True]


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def test_finding_8_9_no_code_of_a_pickle_runs(tmp_path: Path) -> None:
    file, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"state_dict": Evil(trace)}, file)
    with pytest.raises(UserError, match="holds more than tensors"):
        weights.load_weights(registry.resolve("digits"), file)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense", "no file of torch.save"),
        (b"", "no file of torch.save"),
        ([1, 2], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
    ],
)
def test_finding_8_9_files_without_weights(content: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match=words):
        weights.load_weights(registry.resolve("digits"), file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_finding_8_9_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    state = registry.resolve("digits").state_dict()
    state["layer1.0.conv1.weight"][3, 0, 1, 1] = value
    file = tmp_path / "w.pt"
    torch.save(state, file)
    with pytest.raises(UserError, match=r"layer1.0.conv1.weight that are not finite"):
        weights.load_weights(registry.resolve("digits"), file)


def test_finding_8_4_a_new_head_on_trained_weights(tmp_path: Path) -> None:
    source = registry.resolve("digits", {"num_classes": 1000})
    file = tmp_path / "w.pt"
    torch.save(source.state_dict(), file)
    model, said = registry.resolve("digits"), list[str]()
    with pytest.raises(UserError, match=r"--model.new_head true puts a new last layer"):
        weights.load_weights(model, file)
    head = model.get_parameter("fc.weight").clone()
    found = weights.load_weights(model, file, new_head=True, say=said.append)
    assert found["new_head"] == "fc"
    assert "fc is new and untrained: 10 classes, 1000 in" in said[0]
    assert torch.equal(model.get_parameter("fc.weight"), head)
    assert torch.equal(model.get_parameter("conv1.weight"), source.get_parameter("conv1.weight"))


def test_finding_8_4_another_body_is_no_new_head(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(registry.resolve("resnet20", {"in_channels": 1}).state_dict(), file)
    with pytest.raises(UserError, match=r"conv1\.weight of shape"):
        weights.load_weights(registry.resolve("resnet20"), file, new_head=True)
