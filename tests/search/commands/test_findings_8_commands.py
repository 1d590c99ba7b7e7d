"""What surprised a new user of the commands: modules, consent, notation, suggestions, imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pruning.models import registry
from search.cli import main
from search.commands.compare import CompareOptions
from search.config import loader
from search.config.parser import Parser
from tests.search.commands.refusal import refuse
from tests.search.runs import make_rows, make_run

NETWORK = """
from pruning.models.cifar import cifar_resnet
def net(n_classes):
    return cifar_resnet(8, n_classes, 1)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of its own, as a console script sees it: not on sys.path."""
    (tmp_path / "own_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    return tmp_path


@pytest.mark.parametrize("flag", ["--trust_factory", "--trust-factory", "--model.trust_factory"])
def test_finding_8_6_profile_finds_a_module_of_the_working_folder(
    flag: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["profile", "own_network:net", "--input", "1x8x8", "--args", '{"n_classes": 4}']
    assert "--trust_factory true allows it" in refuse(argv, capsys)
    assert "own_network" not in sys.modules
    assert main([*argv, flag, "true", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["satisfiable"]


@pytest.mark.parametrize("flag", ["--trust_factory=true", "--model.trust_factory=true"])
def test_finding_8_6_prune_finds_module_and_weights(
    flag: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = registry.resolve("own_network:net", {"n_classes": 10}, trust=True)
    torch.save({"state_dict": net.state_dict()}, "mine.pt")
    argv = ["prune", "--model.name", "own_network:net", "--model.weights", "mine.pt"]
    argv += ["--method", "uniform", "--repair", "none", "--finetune.epochs", "0"]
    assert "--trust_factory true allows it" in refuse(argv, capsys)
    assert main([*argv, flag]) == 0
    said = capsys.readouterr()
    assert "weights taken from 'state_dict'" in said.err
    assert "is this the score you know?" in said.err
    assert (here / "model.safetensors").is_file()


def test_finding_8_6_consent_has_one_spelling() -> None:
    for argv in (["--trust_factory", "true"], ["--model.trust-factory=true"]):
        assert loader.parse(argv)[1].model.trust_factory
    parser = Parser(prog="x")
    parser.add_dataclass(CompareOptions)
    assert parser.read(["--model.trust_factory", "true"]).trust_factory


def test_finding_8_4_hints_name_the_factorys_own_argument(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["prune", "--model.name", "own_network:net", "--trust_factory", "true"]
    line = refuse([*argv, "--model.args", '{"n_classes": 7}'], capsys)
    assert "has 7 outputs, the data 10 classes" in line
    assert "leave model.args.n_classes out, or set it to 10" in line


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("nn.Conv2d(1, 4, 3)", "only classification is served"),
        ("nn.Sequential(nn.Flatten(), nn.Linear(64, 2))", "only classification is served"),
    ],
)
def test_finding_8_12_only_classification_is_served(
    body: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"other_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"from torch import nn\ndef net():\n    return {body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    argv = ["prune", "--model.name", f"{name}:net", "--trust_factory", "true"]
    assert words in refuse(argv, capsys)


def test_finding_8_3_one_default_method() -> None:
    import inspect

    import pruning
    from search.commands import prune
    from search.config.schema import SearchConfig

    default = inspect.signature(pruning.prune).parameters["method"].default
    assert default == SearchConfig().method == "gain-curve"
    for name in loader.packaged():
        assert loader.parse([name])[1].search.method == default
    assert "--method peel" not in prune.USAGE


def test_finding_8_3_prune_takes_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["prune", "digits", "--base.epochs", "1", "--finetune.epochs", "0", "--json"]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "gain-curve"


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--search.min_ratio", "25%"], "search.min_ratio", 0.25),
        (["--search.min_ratio=0.25"], "search.min_ratio", 0.25),
        (["--finetune.distill", "90%"], "finetune.distill", 0.9),
        (["--resources.gpus_per_trial", "50%"], "resources.gpus_per_trial", 0.5),
        (["--search.reference_point", "1e6,10%"], "search.reference_point", (1e6, 0.1)),
        (["--search.reference_point", "[1e6,0.1]"], "search.reference_point", (1e6, 0.1)),
        (["--data.mean", "0.5,0.4,0.3"], "data.mean", (0.5, 0.4, 0.3)),
        (["--search.method", "[peel,cap]"], "search.method", "[peel,cap]"),
    ],
)
def test_finding_8_7_one_notation_of_shares_and_lists(
    argv: list[str], key: str, value: object
) -> None:
    found: object = loader.parse(argv)[1]
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


def test_finding_8_7_the_same_in_files() -> None:
    tree = {"search": {"method": ["peel", "cap"], "min_ratio": "25%", "max_macs": 0.5}}
    tree |= {"data": {"mean": "0.5,0.4,0.3", "val": "20%"}}
    config = loader.from_dict(tree)
    assert config.search.method == "peel,cap"
    assert loader.method_names("[peel, cap]") == ("peel", "cap")
    assert config.search.min_ratio == 0.25
    assert config.data.mean == (0.5, 0.4, 0.3)


@pytest.mark.parametrize("text", ["50%", "0.5", ".5"])
def test_finding_8_7_one_notation_of_amounts(text: str) -> None:
    from search.config import notation, quantity
    from search.frontier import select

    assert quantity.parse(text, "search.max_macs").of(200.0) == 100.0
    assert select.parse_cost(text, {"base_macs": 200}).most == 100.0
    assert select.parse_score(text) == 0.5
    assert [a.of(200.0) for a in notation.amounts(f"[{text},60M]", "--macs")] == [100.0, 60e6]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["frontier", "x", "--at-least", "93"], "did you mean 93%?"),
        (["frontier", "x", "--atmost", "50%"], "closest: --at_most"),
        (["frontier", "x", "--jsn"], "closest: --json"),
        (["submit", "--write-rayignor", "--"], "closest: --write_rayignore"),
        (["compare", "x", "--baselines", "foo"], "--baselines 'foo': must be one of"),
        (
            ["compare", "x", "--budgets", "50"],
            "--budgets 50: no network is so small; did you mean 50%?",
        ),
        (["export", "x", "--latency", "--batch", "0,1"], "--batch 1,64"),
    ],
)
def test_finding_8_12_suggestions_and_right_names(
    argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, make_rows(3)) if "x" in argv else ""
    assert words in refuse([run if word == "x" else word for word in argv], capsys)


@pytest.mark.parametrize("status", ["running", "complete"])
def test_finding_8_10_frontier_imports_no_torch(status: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, make_rows(6), status)
    code = (
        f"import sys; from search.cli import main; code = main(['frontier', {run!r}, '--knee']); "
        "heavy = {'torch', 'ray', 'optuna', 'matplotlib', 'scipy'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
