"""The command line as a user meets it: exit codes, one line per error, help, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch

from pruning.models import registry
from search import cli
from search.cli import COMMANDS, main
from search.config.schema import Config
from search.storage.ledger import Ledger
from search.storage.row import Row

REPOSITORY = Path(__file__).resolve().parents[3]
RECORD = {"format": 1, "config": {}, "base_macs": 1_000_000}


def refuse(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; its one line on stderr."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("slimfront: ")
    return lines[0]


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


def test_profile_of_an_unknown_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert "resnet20" in refuse(["profile", "resnet21"], capsys)


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


def test_profile_shows_groups_fixed_layers_and_macs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "resnet20", "--max-macs", "60%"]) == 0
    text = capsys.readouterr().out
    for word in ("layer1.0.conv1", "fc", "output", "minimum", "centre", "maximum", "max_macs 60%"):
        assert word in text


@pytest.mark.parametrize(
    ("name", "macs"), [("cifar10-resnet56", 125_747_840), ("cifar10-vgg16", 313.2e6)]
)
def test_profile_of_a_packaged_configuration(
    name: str, macs: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", name, "--json"]) == 0  # without images or weights
    assert json.loads(capsys.readouterr().out)["maximum"]["macs"] == pytest.approx(macs, rel=1e-3)


def test_profile_takes_channels_and_classes(capsys: pytest.CaptureFixture[str]) -> None:
    def params(*flags: str) -> int:
        assert main(["profile", "resnet20", "--json", *flags]) == 0
        return int(json.loads(capsys.readouterr().out)["maximum"]["params"])

    whole = params()
    assert params("--outputs", "100") == whole + 90 * 65  # 64 weights and a bias for each class
    assert params("--input", "1x32x32") == whole - 2 * 9 * 16


def test_profile_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "resnet20", "--json", "--divisor", "4", "--min_ratio", "0.25"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["satisfiable"] is True
    assert found["input_shape"] == [3, 32, 32]
    # He et al.: ResNet-20 has 40.8 M MACs; the 1x1 shortcuts of option B add 0.26 M
    assert found["maximum"]["macs"] == pytest.approx(40.8e6, rel=0.01)
    assert found["minimum"]["macs"] < found["centre"]["macs"] < found["maximum"]["macs"]
    assert all(group["step"] == 4 for group in found["groups"])
    assert all(group["low"] >= group["channels"] / 4 for group in found["groups"])
    assert found["fixed"] == {"fc": "output of the network"}


def test_profile_says_where_the_time_goes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path))
    argv = ["profile", "digits", "--latency", "torch"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    times, groups = found["latency"], {group["name"] for group in found["groups"]}
    assert times["ms"] > 0 and "torch" in times["runtime"] and "1 thread" in times["runtime"]
    assert set(times["steps"]) == groups and len(times["layers"]) == found["layers"]
    assert main(argv) == 0
    assert "between layers" in capsys.readouterr().out


def test_profile_json_is_still_json_when_a_limit_cannot_be_met(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["profile", "resnet20", "--json", "--max_macs", "1k"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["satisfiable"] is False
    assert "search.max_macs 1k" in captured.err


def test_profile_of_a_configuration_takes_its_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tight.yaml"
    path.write_text("model: {name: resnet20}\nsearch: {max_macs: 1k, min_ratio: 0.5}")
    assert "search.max_macs 1k cannot be met" in refuse(["profile", str(path)], capsys)
    assert main(["profile", str(path), "--max_macs", "90%"]) == 0


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A run of four trials that has not ended: one dominated, one failed."""
    (tmp_path / "run.json").write_text(json.dumps(RECORD | {"status": "running"}))
    ledger = Ledger(tmp_path)
    results = ((200_000, 0.8), (500_000, 0.9), (600_000, 0.85), (100_000, None))
    for i, (macs, top1) in enumerate(results):
        status = "failed" if top1 is None else "complete"
        row = {"arch_hash": "a", "method": "uniform", "proposal": {}, "widths": (8, i + 1)}
        ledger.write(
            Row(
                trial_id=f"{i:05d}-a",
                macs=macs,
                params=macs // 10,
                score_val=top1,
                status=status,
                **row,
            )
        )
    return tmp_path


def test_frontier_of_a_run_that_has_not_ended(
    running: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["frontier", str(running)]) == 0
    text = " ".join(capsys.readouterr().out.split())  # the title takes two lines at some widths
    assert "so far" in text
    assert "20.0%" in text
    assert "80.00" in text
    assert "85.00" not in text
    assert main(["frontier", str(running), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finished"] is False
    assert [point["macs"] for point in found["points"]] == [200_000, 500_000]


def test_frontier_of_a_finished_run(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point = {
        "rank": 0,
        "trial_id": "0",
        "method": "uniform",
        "widths": [8, 1],
        "macs": 300_000,
        "params": 5000,
    }
    point |= {"score_val": 0.9, "score_test_mean": 0.875, "score_test_std": float("nan")}
    point |= {"checkpoint": "/was/elsewhere/points/000/model.safetensors"}
    pq.write_table(pa.Table.from_pylist([point]), running / "frontier.parquet")
    # being extended: the table is that of the shorter run
    assert main(["frontier", str(running), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 2
    (running / "run.json").write_text(json.dumps(RECORD | {"status": "complete"}))
    assert main(["frontier", str(running), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finished"] is True
    here = f"{running}/points/000/model.safetensors"
    assert found["points"] == [point | {"score_test_std": None, "checkpoint": here}]
    assert main(["frontier", str(running)]) == 0
    text = capsys.readouterr().out
    assert "87.50" in text
    assert "30.0%" in text


def test_damaged_frontier(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (running / "frontier.parquet").write_bytes(b"nonsense")
    (running / "run.json").write_text(json.dumps(RECORD | {"status": "complete"}))
    assert "is damaged" in refuse(["frontier", str(running)], capsys)


def test_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert main(["search"]) == 130
    assert "the same command again goes on" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [("interrupted", 130), ("complete", 0)])
def test_search_runs_and_then_shows_the_frontier(
    status: str,
    code: int,
    running: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from search import runner

    def run(config: Config, console: object, given: object = None) -> str:
        assert config.trials == 5
        (running / "run.json").write_text(json.dumps(RECORD | {"status": status}))
        return config.out

    monkeypatch.setattr(runner, "run", run)
    assert main(["search", "--trials", "5", "--out", str(running)]) == code
    assert "2 points on the frontier" in " ".join(capsys.readouterr().out.split())


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
