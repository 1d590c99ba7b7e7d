"""What can be known before anything is trained is said before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pruning.errors import UserError
from search.backend import cluster
from search.cli import main
from search.config import quantity
from search.data import folders, splits
from search.data.spec import DataConfig
from search.storage import files
from search.tasks import classification
from tests.search.runs import make_rows, make_run

NOWHERE = "/proc/nowhere/x"  # no one may write there, root included


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(classification, "finetune", fail)
    monkeypatch.setattr(cluster, "connect", fail)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["search", "digits", "--out", NOWHERE], "cannot write"),
        (["search", "digits", "--out", "IN_THE_WAY/run"], "cannot write"),
        (["search", "digits", "--out", "NEW", "--resources.storage_path", NOWHERE], "cannot write"),
        (["search", "digits", "--search.max_macs", "60"], "did you mean 60%?"),
        (["search", "digits", "--search.max_params", "5"], "did you mean 5%?"),
        (["search", "digits", "--data.mean", "[0.5,0.5,0.5]"], "data.mean has 3 numbers, digits"),
        (["search", "digits", "--data.std", "[0]"], "data.std [0.0]: must be numbers above 0"),
        (["prune", "digits", "--to", NOWHERE], "cannot write"),
        (["prune", "digits", "--to", "IN_THE_WAY/slim.st"], "cannot write"),
        (["prune", "digits", "--to", "NEW", "--macs", "60"], "did you mean 60%?"),
        (["prune", "digits", "--to", "NEW", "--macs", "1k"], "--macs 1k cannot be met"),
        (["prune", "digits", "--to", "NEW", "--data.val", "split:more"], "digits has no further"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else None,
)
def test_finding_7_5_refused_before_training(
    argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    words_of = {"NEW": str(tmp_path / "new"), "IN_THE_WAY": str(tmp_path / "file")}
    for name, path in words_of.items():
        argv = [word.replace(name, path) for word in argv]
    assert main(argv) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert words in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    "argv",
    [
        ["export", "RUN", "--latency"],
        ["export", "RUN", "--format", "onnx"],
        ["compare", "RUN"],
    ],
    ids=" ".join,
)
def test_finding_7_5_a_run_that_cannot_be_written_is_not_measured(
    argv: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run(tmp_path / "run", make_rows(3))

    def read_only(place: files.Location, data: bytes) -> None:
        raise UserError(f"cannot write {place} (read-only); choose another place")

    monkeypatch.setattr(files, "write", read_only)
    assert main([run if word == "RUN" else word for word in argv]) == 2
    captured = capsys.readouterr()
    assert "cannot write" in captured.err
    assert "ms" not in captured.out


def test_finding_7_5_the_probe_leaves_a_folder_as_it_was(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    files.check_writable(files.open_uri(deep))
    assert not (tmp_path / "a").exists()
    deep.mkdir(parents=True)
    files.check_writable(files.open_uri(deep))
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize(("amount", "share"), [("60", "60%"), (100, "100%")])
def test_finding_7_5_a_share_without_its_sign(amount: str | float, share: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {share}"):
        quantity.parse(amount, "search.max_macs")
    assert quantity.parse("60", "search.max_latency_ms").value == 60


@pytest.mark.parametrize("missing", ["test", "extra"])
def test_finding_7_5_a_missing_split_is_found_before_any_is_decoded(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                image = Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8))
                image.save(folder / f"{i}.png")
    val = "0.5" if missing == "test" else "split:extra"
    if missing == "test":
        (tmp_path / "val").rename(tmp_path / "other")
    decoded: list[str] = []
    monkeypatch.setattr(folders.Folders, "read", lambda self, split: decoded.append(split))
    config = DataConfig(name="folder", root=str(tmp_path), val=val, image_size=8)
    with pytest.raises(UserError, match="there is no folder"):
        splits.load(config)
    assert decoded == []
