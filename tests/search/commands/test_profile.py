"""The command that profiles a network: groups, MACs, times, limits, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.cli import main
from tests.search.commands.refusal import refuse


def test_profile_of_an_unknown_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert "resnet20" in refuse(["profile", "resnet21"], capsys)


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
