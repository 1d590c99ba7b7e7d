"""One fuzzed call of a command each: what lies in its folder, and its words. Seeded."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
import yaml
from PIL import Image

from pruning.models import resolve
from search.commands.compare import CompareOptions
from search.commands.export import ExportOptions
from search.config import Config, ProfileOptions, loader
from search.config.parser import leaf_types
from tests.search.fuzz import damage
from tests.search.fuzz.damage import Rng
from tests.search.runs import make_rows, make_run

KEYS = tuple(leaf_types(Config))
OWN_FLAGS = {
    "search": KEYS,
    "prune": (*KEYS, "method", "macs", "repair", "to", "force", "json"),
    "profile": (*leaf_types(ProfileOptions), "json"),
    "frontier": ("at-most", "at-least", "knee", "json"),
    "compare": (*leaf_types(CompareOptions), "json"),
    "export": (*leaf_types(ExportOptions), "at_most", "knee", "latency", "json"),
    "report": (),
    "submit": ("address", "working_dir", "exclude", "install"),
}
BARE = ("force", "json", "knee", "latency")
# these would ask a network, or another machine
NEVER = ("data.download", "resources.address", "address")


@dataclass(frozen=True)
class Case:
    """Words of a command, run in `folder`; what lies under `free` may change, nothing else."""

    argv: list[str]
    folder: Path
    free: tuple[Path, ...]


def templates(folder: Path) -> None:
    """What all cases begin with: a finished run, a running one, weights, images."""
    make_run(folder / "complete", make_rows(8))
    make_run(folder / "running", make_rows(5), "running")
    torch.manual_seed(0)
    net = resolve("digits")
    safetensors.torch.save_file(net.state_dict(), folder / "weights.safetensors")
    torch.save({"state_dict": net.state_dict()}, folder / "weights.pt")


def make(rng: Rng, given: Path, folder: Path) -> Case:
    """A case in a new `folder`, from the templates in `given`."""
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("the user's")
    kinds = (options, options, files, files, runs, runs, runs, checkpoints, parquet)
    return kinds[rng.integers(len(kinds))](rng, given, folder)


def options(rng: Rng, given: Path, folder: Path) -> Case:
    command = str(damage.pick(rng, OWN_FLAGS))
    argv = [command]
    free: tuple[Path, ...] = ()
    if command in ("frontier", "compare", "export", "report"):
        argv.append(_run(rng, given, folder))
        free = (folder / "run",)
    elif command == "profile":
        argv.append(str(damage.pick(rng, ["digits", "resnet20", damage.word(rng)])))
    elif command == "submit":
        argv.append("--")
    return Case(argv + _flags(rng, command), folder, (*free, *_written(folder)))


def files(rng: Rng, given: Path, folder: Path) -> Case:
    """A YAML file of a search, damaged."""
    tree = loader.read(str(damage.pick(rng, loader.packaged())))
    tree["out"] = "RUN"
    tree = damage.tree(rng, tree)
    if isinstance(tree, dict):
        for section, key in (name.split(".") for name in NEVER if "." in name):
            if isinstance(tree.get(section), dict):
                tree[section].pop(key, None)
    file = folder / "mine.yaml"
    try:
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    except (yaml.YAMLError, RecursionError, UnicodeEncodeError):
        file.write_text(repr(tree)[:5000], encoding="utf-8", errors="replace")
    if rng.random() < 0.15:
        file.write_bytes(damage.data(rng, file.read_bytes()))
    command = str(damage.pick(rng, ["search", "search", "prune", "profile"]))
    more = ["--out", "RUN"] if command == "search" else []
    return Case([command, "mine.yaml", *more], folder, _written(folder))


def runs(rng: Rng, given: Path, folder: Path) -> Case:
    """A run folder with one or two of its files damaged."""
    place = folder / _run(rng, given, folder)
    for _ in range(int(rng.integers(1, 3))):
        file = Path(damage.pick(rng, sorted(p for p in place.rglob("*") if p.is_file())))
        if file.suffix == ".json":
            file.write_bytes(damage.json_file(rng, file.read_bytes()))
        elif file.name == "frontier.parquet" and rng.random() < 0.7:
            pq.write_table(_damaged_table(rng, pq.read_table(file)), file)
        elif file.suffix == ".safetensors":
            file.write_bytes(damage.safetensors_file(rng, file.read_bytes()))
        elif rng.random() < 0.5:
            file.write_bytes(damage.data(rng, file.read_bytes()))
        else:
            file.unlink()
            if rng.random() < 0.5:
                file.mkdir()
    command, *words = damage.pick(
        rng,
        [
            ["frontier", "--json"],
            ["frontier"],
            ["frontier", "--knee"],
            ["report"],
            ["compare"],
            ["export", "--format", "csv"],
            ["export", "--format", "parquet"],
            ["export", "--format", "optuna"],
            ["export", "--format", "onnx"],
            ["search", "digits", "--out"],
            ["search", "digits", "--out", "RUN", "--search.warm_start"],
        ],
    )
    argv = [command, *words, "run"] if command == "search" else [command, "run", *words]
    return Case(argv, folder, (folder / "run", *_written(folder)))


def checkpoints(rng: Rng, given: Path, folder: Path) -> Case:
    """Weights damaged, in either form."""
    name = str(damage.pick(rng, ["weights.safetensors", "weights.pt"]))
    whole = (given / name).read_bytes()
    damaged = (damage.safetensors_file if name.endswith("s") else damage.data)(rng, whole)
    (folder / name).write_bytes(damaged)
    argv = ["prune", "digits", "--model.weights", name, "--to", "NEW", "--finetune.epochs", "0"]
    return Case(argv, folder, _written(folder))


def parquet(rng: Rng, given: Path, folder: Path) -> Case:
    """Images in Parquet files whose columns are of any type, or missing."""
    root = folder / "images"
    root.mkdir()
    for split in ("train", "test"):
        if rng.random() < 0.05:
            continue
        table = pa.table({"image": [{"bytes": b, "path": None} for b in _pngs(rng)]})
        table = table.append_column("label", pa.array(list(range(10)) * 2))
        if rng.random() < 0.8:
            table = _damaged_table(rng, table)
        pq.write_table(table, root / f"{split}-0.parquet")
    argv = ["prune", "--model.name", "digits", "--data.name", "parquet", "--data.root", "images"]
    argv += ["--data.val", str(damage.pick(rng, ["50%", "last:3", "split:test"])), "--to", "NEW"]
    return Case(argv, folder, _written(folder))


def _pngs(rng: Rng) -> list[bytes]:
    found = []
    for _ in range(20):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, "png")
        found.append(
            damage.data(rng, buffer.getvalue()) if rng.random() < 0.02 else buffer.getvalue()
        )
    return found


def _damaged_table(rng: Rng, table: pa.Table) -> pa.Table:
    at = int(rng.integers(table.num_columns))
    name, count = table.column_names[at], table.num_rows
    what = rng.integers(6)
    if what == 0:
        return table.remove_column(at)
    if what == 1:
        return table.rename_columns([f"{n}_" if n == name else n for n in table.column_names])
    if what == 2:
        return table.slice(0, int(rng.integers(2)))
    columns: list[Any] = [
        pa.nulls(count),
        pa.array([str(damage.word(rng)) for _ in range(count)]),
        pa.array([float("nan")] * count),
        pa.array([-(2**62)] * count),
        pa.array([2**62] * count),
        pa.array([[1, 2]] * count),
        pa.array([{"bytes": None}] * count),
        pa.array([{"other": 1}] * count),
        pa.array([b"\x00"] * count),
        pa.array([True] * count),
    ]
    return table.set_column(at, name, columns[rng.integers(len(columns))])


def _flags(rng: Rng, command: str) -> list[str]:
    found: list[str] = []
    for _ in range(int(rng.integers(0, 4))):
        name = str(damage.pick(rng, OWN_FLAGS[command] or ("json",)))
        if name in NEVER:
            continue
        if rng.random() < 0.1:
            name = name[:-1] + str(damage.pick(rng, ["", "z", name]))
        if name in BARE:
            found.append(f"--{name}")
        elif rng.random() < 0.3:
            found.append(f"--{name}={damage.word(rng)}")
        else:
            found += [f"--{name}"] + [damage.word(rng)] * bool(rng.random() < 0.95)
    if command in ("search", "prune") and not any("out" in f or "to" in f for f in found):
        found += ["--out", "RUN"] if command == "search" else ["--to", "NEW"]
    return found


def _run(rng: Rng, given: Path, folder: Path) -> str:
    shutil.copytree(
        given / str(damage.pick(rng, ["complete", "complete", "running"])), folder / "run"
    )
    return "run"


def _written(folder: Path) -> tuple[Path, ...]:
    return (folder / "RUN", folder / "NEW", folder / "runs", folder / "model.safetensors")
