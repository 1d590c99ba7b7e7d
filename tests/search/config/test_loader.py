"""Configuration: quantities, files, flags over files, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from pruning.errors import UserError
from search.config import loader, quantity
from search.config.loader import Config
from search.config.schema import RecipeConfig


@pytest.mark.parametrize(
    ("text", "base", "expected"),
    [
        ("60%", 200e6, 120e6),
        ("12.5 %", 800, 100),
        ("60M", 1, 60e6),
        ("1.2G", 1, 1.2e9),
        ("1.5k", 1, 1500),
        ("60_000_000", 1, 60e6),
        ("1e8", 1, 1e8),
        (60_000_000, 1, 60e6),
        ("100%", 7, 7),
    ],
)
def test_quantity(text: str | int, base: float, expected: float) -> None:
    assert quantity.parse(text, "search.max_macs").of(base) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["60pc", "", "M", "-3", "0", "0%", "101%", "2.5ms", "nan", True])
def test_bad_quantity_names_the_key(text: str | bool) -> None:
    with pytest.raises(UserError, match=r"^search\.max_macs"):
        quantity.parse(text, "search.max_macs")


def test_latency_is_in_ms_or_a_share() -> None:
    for text, expected in (("2.5", 2.5), ("0.4ms", 0.4), ("50%", 5.0)):
        assert quantity.parse(text, "search.max_latency_ms").of(10.0) == pytest.approx(expected)
    with pytest.raises(UserError, match="quantity"):
        quantity.parse("2M", "search.max_latency_ms")


@pytest.mark.parametrize(
    ("value", "text"), [(125_747_840, "125.7M"), (640, "640"), (4.089e9, "4.089G"), (1500, "1.5k")]
)
def test_human(value: float, text: str) -> None:
    assert quantity.human(value) == text


@pytest.mark.parametrize("name", loader.packaged())
def test_packaged_configuration(name: str, tmp_path: Path) -> None:
    chosen = loader.load([name, "--data.root", str(tmp_path)])
    written = loader.from_dict(loader.read(name), name)
    assert chosen.model == written.model
    assert chosen.trials == written.trials >= 24
    assert Path(chosen.out).parts[-2:] == ("runs", name)


def test_the_default_is_the_digits_demo() -> None:
    chosen = loader.load([])
    assert chosen.data.name == chosen.model.name == "digits"
    assert chosen.trials >= 24
    assert Path(chosen.out).parts[-2:] == ("runs", "digits")


def test_flags_override_the_file_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("trials: 7\nfinetune: {epochs: 3, lr: 1e-2}\nmodel: {args: {num_classes: 3}}\n")
    flags = ["--trials", "9", str(path), "--finetune.epochs=0.5", "--search.max-macs", "60%"]
    chosen = loader.load(flags)
    assert (chosen.trials, chosen.finetune.epochs, chosen.finetune.lr) == (9, 0.5, 0.01)
    assert chosen.search.max_macs == "60%"
    assert chosen.model.args == {"num_classes": 3}
    assert chosen.out.endswith("runs/mine")
    assert loader.load([str(path), "--model.args.num_classes", "4"]).model.args["num_classes"] == 4


def test_round_trip_through_json_and_yaml() -> None:
    flags = ["--search.reference_point", "[1e6, 0.1]", "--search.max_macs", "60%", "--seed", "3"]
    chosen = loader.load(flags)
    tree = loader.to_dict(chosen)
    assert loader.from_dict(json.loads(json.dumps(tree))) == chosen
    assert loader.from_dict(yaml.safe_load(yaml.safe_dump(tree))) == chosen
    assert chosen.search.reference_point == (1e6, 0.1)


def test_local_paths_become_absolute_and_addresses_stay() -> None:
    chosen = loader.load(["--out", "runs/x", "--resources.storage_path", "s3://bucket/x"])
    assert chosen.out == str(Path("runs/x").absolute())
    assert chosen.resources.storage_path == "s3://bucket/x"


def test_changed_keys() -> None:
    a = Config()
    b = dataclasses.replace(a, trials=99, search=dataclasses.replace(a.search, sampler="gp"))
    assert set(loader.changed_keys(a, b)) == {"trials", "search.sampler"}
    assert loader.changed_keys(a, a) == []


def test_recipes_are_those_of_finetune() -> None:
    finetune = pytest.importorskip("pruning.training.loop")
    ours = {field.name: field.default for field in dataclasses.fields(RecipeConfig)}
    theirs = {field.name: field.default for field in dataclasses.fields(finetune.Recipe)}
    assert ours == theirs
    assert RecipeConfig(lr=0.3).recipe().lr == 0.3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {nmae: x}", "unknown key model.nmae; closest: model.name"),
        ("sampler: tpe", "unknown key sampler; closest: search.sampler"),
        ("zzz: 1", "unknown key zzz; at the top there are task"),
        ("trials: many", "trials many: must be a whole number"),
        ("search: {sampler: tp}", "one of ehvi, tpe, nsga2, nsga3, gp, random; did you mean tpe"),
        ("search: 3", "search holds options of its own"),
        ("search: {divisor: 1.5}", "must be a whole number or auto"),
        ("[1, 2]", "holds no keys"),
        ("a: [", "is not YAML"),
        ("a: 1\n b: 2", "is not YAML"),
    ],
)
def test_bad_file_is_named_with_the_remedy(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml") as caught:
        loader.load([str(path)])
    assert words in str(caught.value)


def test_yaml_switches_and_empty_sections(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("search:\n  early_stopping: off\n  seeds: no\nmodel:\n")
    chosen = loader.load([str(path)])
    assert chosen.search.early_stopping == "off"
    assert chosen.search.seeds is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trials", "0"], "trials 0: must be 1 or more"),
        (["--out", ""], "out ''"),
        (["--search.min_ratio", "1.5"], "search.min_ratio 1.5"),
        (["--search.offset_range", "1"], "search.offset_range 1.0"),
        (["--search.divisor", "0"], "search.divisor 0"),
        (["--search.max_macs", "60pc"], "search.max_macs '60pc' is not a quantity"),
        (
            ["--search.max_macs", "50%", "--search.min_macs", "60%"],
            "is not below search.max_macs 50%",
        ),
        (["--search.reference_point", "[1, 2]"], "search.reference_point"),
        (["--search.method", "peal"], "search.method 'peal': must be one of uniform"),
        (["--search.warm_start", "/nowhere"], "holds no run.json"),
        (["--resources.gpus_per_trial", "0.4"], "1/n such as 0.5"),
        (["--resources.memory_fraction", "2"], "resources.memory_fraction 2.0"),
        (["cifar10-resnet20"], "data.root is missing; name the folder of the cifar10 images"),
        (["cifar10-vgg16", "--data.root", "/nowhere"], "data.root /nowhere: must be a folder"),
        (["--model.weights", "/nowhere.safetensors"], "there is no file /nowhere.safetensors"),
        (["--finetune.lr", "-1"], "finetune.lr -1.0"),
        (["--base.epochs", "0"], "base.epochs 0.0: must be above 0"),
    ],
)
def test_values_that_cannot_work(flags: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        loader.load(flags)
    assert words in str(caught.value)


@pytest.mark.parametrize("share", ["0", "1", "2", "0.5", "0.25", "0.3333", "0.33", "0.125"])
def test_gpu_shares_that_work(share: str) -> None:
    resources = loader.load(["--resources.gpus_per_trial", share]).resources
    assert resources.gpus(available=8) == float(share)


def test_gpus_by_default_are_what_the_cluster_has() -> None:
    resources = Config().resources
    assert resources.gpus(available=0) == 0
    assert resources.gpus(available=8) == 1
