"""The command line as a user meets it: exit codes, one line per error, help, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from pruning.models import registry
from search import cli
from search.cli import COMMANDS, main
from tests.search.commands.refusal import refuse

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["serach"], "did you mean search?"),
        (["--bogus"], "commands: search, profile, frontier"),
        (["search", "--model.nmae", "x"], "--model.nmae; closest: --model.name"),
        (["search", "--smapler", "x"], "closest: --search.sampler"),
        (["search", "--trials", "x"], "--trials x: must be a whole number"),
        (["search", "--trials"], "--trials needs a value: a whole number"),
        (["search", "--search.sampler", "tpee"], "did you mean tpe?"),
        (["search", "--search.seeds", "perhaps"], "must be true or false"),
        (["search", "--search.max_macs", "60pc"], "is not a quantity"),
        (
            ["search", "--model", "resnet20"],
            "--model takes no value of its own; closest: --model.name",
        ),
        (
            ["search", "missing.yaml"],
            "no configuration missing.yaml: no such file, nor one of digits",
        ),
        (["search", "digits", "digits"], "unexpected argument 'digits'"),
        (["search", "--model.name", "resnet21"], "there is no network resnet21; did you mean"),
        (["search", "--data.val", "1.5"], "data.val 1.5 must lie between 0 and 1"),
        (["search", "--data.augment", "shft"], "unknown augmentation 'shft'"),
        (["search", "--base.distill", "0.5"], "0: it has no teacher"),
        (["prune", "digits", "--out", "x"], "--out belongs to search; --to names the file"),
        (["prune", "digits", "--trials=3"], "--trials belongs to search"),
        (["prune", "digits", "--method", "all"], "no method 'all'"),
        (["prune", "digits", "--repair", "glue"], "--repair glue: choose one of auto, none,"),
        (["profile"], "MODEL_OR_CONFIG is missing"),
        (["profile", "digits", "--inptu", "1x8x8"], "unknown option --inptu; closest: --input"),
        (["profile", "resnet20", "--input", "32"], "--input 3x224x224"[8:]),
        (["profile", "resnet20", "resnet56"], "unexpected argument 'resnet56'"),
        (["profile", "no.such:factory"], "--input"),
        (["profile", "resnet20", "--max-macs", "0.01%"], "the smallest slim version has"),
        (["profile", "resnet20", "--min-macs", "900M"], "lower it"),
        (["profile", "digits", "--latency", "tvm"], "choose torch, torch:cuda, onnxruntime"),
        (["frontier"], "RUN is missing"),
        (["frontier", "/nowhere"], "holds no run.json"),
        (["export", "RUN", "--latency", "--point", "5"], "--latency times all points"),
        (["export", "RUN", "--latency", "--knee"], "--latency times all points"),
        (["search", "digits", "--seed", "1" * 23], "from 0 to 4294967295"),
        (["prune", "digits", "--seed", "1" * 23, "--to", "x"], "from 0 to 4294967295"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refuse(argv, capsys)


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"]):
        assert main(argv) == 0
        text = capsys.readouterr().out
        assert all(f"slimfront {name}" in text for name in COMMANDS)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("search", ["--search.max_macs", "60%", "MACs for one image", "in s;", "(default: tpe)"]),
        ("profile", ["--input", "3x224x224", "(default: null)", "--json"]),
        ("frontier", ["RUN", "--json"]),
    ],
)
def test_help_of_a_command(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in words:
        assert word in text


def test_help_shows_the_defaults_of_the_chosen_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("trials: 77\nfinetune: {lr: 0.123}")
    assert main(["search", str(path), "--help"]) == 0
    text = capsys.readouterr().out
    assert "(default: 77)" in text
    assert "(default: 0.123)" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("slimfront ")


def test_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert main(["search"]) == 130
    assert "the same command again goes on" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["search", "--help"], ["search", "--trails", "3"]])
def test_nothing_heavy_is_imported_for_help_and_typos(argv: list[str]) -> None:
    code = (
        f"import sys; from search.cli import main; main({argv!r}); "
        "heavy = {'torch', 'ray', 'optuna', 'matplotlib', 'plotly'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_trained_model_is_prepared_without_slow_imports(tmp_path: Path) -> None:
    """A second each: what torchvision, Tune and the meta device bring with them."""
    weights = tmp_path / "digits.safetensors"
    safetensors.torch.save_file(registry.resolve("digits").state_dict(), weights)
    code = (
        "import sys; from search.config import loader; from search.trial import base_model; "
        f"base_model.prepare(loader.load(['digits', '--model.weights={weights}'])); "
        "slow = {'torchvision', 'ray.tune', 'sympy', 'optuna'} & set(sys.modules); "
        "sys.exit(' '.join(slow) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_as_a_process() -> None:
    command = [sys.executable, "-m", "search", "search", "--search.max_macs", "lots"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "search.max_macs 'lots' is not a quantity" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes close differently elsewhere")
def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = [sys.executable, "-m", "search", "profile", "resnet56", "--json"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
