"""Segmentation of images with a mask each: folders and Parquet give the same, faults one line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pruning.errors import UserError
from pruning.training import Recipe
from search import tasks
from search.config import Config, DataConfig, ModelConfig
from search.data import dense


def encoded(array: np.ndarray, kind: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, kind)
    return sink.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes of 64 x 64 pixels, as folders and as Parquet."""
    top = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 12), ("test", 4)):
        part = dense.scenes("train" if split == "train" else "test", count)
        rows: dict[str, list[Any]] = {"image": [], "mask": []}
        for folder in ("images", "masks"):
            (top / "folder" / split / folder).mkdir(parents=True)
        for i, (image, mask) in enumerate(zip(part.images, part.masks, strict=True)):
            x, y = encoded(image[0].repeat(1, 0), "PNG"), encoded(mask, "PNG")
            (top / "folder" / split / "images" / f"{i:02d}.png").write_bytes(x)
            (top / "folder" / split / "masks" / f"{i:02d}.png").write_bytes(y)
            rows["image"].append({"bytes": x, "path": f"{i}"})
            rows["mask"].append({"bytes": y, "path": f"{i}"})
        (top / "parquet").mkdir(exist_ok=True)
        pq.write_table(pa.table(rows), top / "parquet" / f"{split}-00000.parquet")
    return top


def data(root: Path, name: str, **more: Any) -> DataConfig:
    return DataConfig(name=name, root=str(root / name), val="25%", image_size=64, **more)


def test_folders_and_parquet_are_read_alike_and_val_is_held_out(root: Path) -> None:
    folder, parquet = (dense.load(data(root, name)) for name in ("folder", "parquet"))
    assert {name: len(part.masks) for name, part in folder.items()} == {
        "train": 9,
        "val": 3,
        "test": 4,
    }
    for name, part in folder.items():
        assert np.array_equal(part.images, parquet[name].images)
        assert np.array_equal(part.masks, parquet[name].masks)
    assert np.array_equal(folder["test"].masks, dense.scenes("test", 4).masks)


def test_masks_are_resized_without_new_classes(root: Path) -> None:
    small = dense.load(DataConfig(name="folder", root=str(root / "folder"), image_size=24))
    assert small["train"].masks.shape[1:] == (24, 24)
    assert set(np.unique(small["train"].masks)) <= set(range(11))


@pytest.mark.parametrize("name", ["unet", "torchvision:lraspp_mobilenet_v3_large"])
def test_a_network_trains_on_them_and_is_scored(root: Path, name: str) -> None:
    """lraspp gives a dictionary, at the images' size; both are built for the masks' classes."""
    config = Config(task="segmentation", model=ModelConfig(name=name), data=data(root, "folder"))
    task = tasks.load(config)
    work = tasks.open_task(task, config, "cpu")
    assert work.about.model == name and work.about.shape == (3, 64, 64)
    torch.manual_seed(0)
    net = work.settle(task.model())
    work.check(net.eval())
    (result,) = work.epochs(net, Recipe(epochs=1, lr=0.01), seed=0)
    assert np.isfinite(result.train_loss) and 0 <= work.score(net, "test") <= 1


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda top: (top / "train/masks/00.png").unlink(), "00.png has no mask"),
        (
            lambda top: Image.new("RGB", (64, 64)).save(top / "train/masks/00.png"),
            "is RGB; one channel of classes is needed",
        ),
        (
            lambda top: Image.new("L", (32, 64)).save(top / "train/masks/00.png"),
            "they must be of one size",
        ),
        (lambda top: (top / "test/images/00.png").write_bytes(b"GIF89"), "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(root: Path, tmp_path: Path, break_it: Any, said: str) -> None:
    import shutil

    shutil.copytree(root / "folder", tmp_path / "folder")
    break_it(tmp_path / "folder")
    with pytest.raises(UserError, match=said) as error:
        dense.load(data(tmp_path, "folder"))
    assert "\n" not in str(error.value)
