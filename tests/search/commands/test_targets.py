"""Nothing is overwritten that the user gave or that is there, unless they say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import safetensors.torch

from pruning.models import checkpoint, files, registry
from search.cli import main
from search.commands import prune
from tests.search.runs import make_rows, make_run


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(registry.resolve("digits").state_dict(), file)
    return file


def call(weights: Path, *flags: str) -> int:
    argv = ["prune", "digits", "--method", "uniform", "--finetune.epochs", "0", "--repair", "none"]
    return main([*argv, "--model.weights", str(weights), *flags])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "is a file that this command reads; name another"),
        (["--to", "link"], "is a file that this command reads; name another"),
        (["--to", "hard", "--force"], "is a file that this command reads; name another"),
        (["--to", "sub/../model.safetensors"], "is a file that this command reads"),
        (["--to", "other.safetensors"], "is there already; name another file, or --force"),
        (["--to", "sub"], "is a folder; name a file in it"),
    ],
)
def test_finding_7_3_prune_overwrites_nothing(
    flags: list[str], words: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("link").symlink_to(weights)
    os.link(weights, "hard")
    Path("sub").mkdir()
    Path("other.safetensors").write_text("mine")
    before = weights.read_bytes()
    assert call(weights, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert weights.read_bytes() == before
    assert Path("other.safetensors").read_text() == "mine"


def test_finding_7_3_prune_does_not_replace_its_configuration(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("model: {name: digits}\n")
    argv = ["prune", "mine.yaml", "--method", "uniform", "--to", "mine.yaml", "--force"]
    assert main(argv) == 2
    assert "is a file that this command reads" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "model: {name: digits}\n"


def test_finding_7_3_force_replaces(weights: Path) -> None:
    Path("slim.safetensors").write_text("earlier")
    assert call(weights, "--to", "slim.safetensors", "--force") == 0
    assert checkpoint.load("slim.safetensors").slimfront.model == "digits"


def test_finding_7_3_a_file_that_came_during_the_training_stays(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = prune.check_target

    def then_another_comes(place: str, given: list[str], *, force: bool) -> None:
        check(place, given, force=force)
        Path(place).write_text("another's")

    monkeypatch.setattr(prune, "check_target", then_another_comes)
    assert call(weights, "--to", "slim.st") == 0
    assert Path("slim.st").read_text() == "another's"
    assert checkpoint.load("slim-1.st").slimfront.model == "digits"
    assert "slim-1.st" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["base.safetensors", "trials/a.json", "points/x", "report.html"])
def test_finding_7_3_a_search_takes_no_folder_with_files_of_its_names(
    name: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("run") / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert main(["search", "digits", "--out", "run", "--trials", "1"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"has {name.split('/')[0]}, which a search would overwrite" in line
    assert file.read_text() == "mine"


def test_finding_7_3_one_file_by_two_names(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_rows(2), status="running")
    file = f"{run}/base.safetensors"
    assert files.same_file(file, Path(file).as_uri())
    assert files.same_file("https://host/a.safetensors", "https://host/a.safetensors")
    assert not files.same_file(file, "torchvision:DEFAULT")
    assert not files.same_file(file, file + "x")
