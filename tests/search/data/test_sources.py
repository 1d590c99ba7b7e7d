"""Sources of images: Parquet, folders, CIFAR as others leave it; what is wrong is told."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from pruning.data.images import ImageSet
from pruning.data.streams import StreamSet
from pruning.errors import UserError
from search.data.spec import DataConfig
from search.data.splits import load
from tests.search.data.sample_sets import load_sizes, random_images, resident, write_parquet


def test_parquet_of_any_size_is_resized_and_cropped(tmp_path: Path) -> None:
    wide = np.zeros((30, 60, 3), np.uint8)
    wide[:, 15:45] = 200  # what a centre crop keeps
    tall = wide.transpose(1, 0, 2)
    grey = np.full((20, 20), 90, np.uint8)
    write_parquet(tmp_path / "train.parquet", [wide, tall, grey, grey], [0, 1, 2, 2], "image")
    write_parquet(tmp_path / "validation.parquet", [grey], [2], "image")
    config = DataConfig("parquet", str(tmp_path), "last:1", image_size=16)
    train, _, test = resident(load(config))
    assert train.shape == (3, 16, 16) and train.classes == 3 and len(test) == 1
    assert (train.images[:2, :, 2:14, 2:14] == 200).all() and (test.images == 90).all()
    assert train.mean == pytest.approx((0.485, 0.456, 0.406))


def test_cifar100_takes_fine_labels(tmp_path: Path) -> None:
    for name in ("train", "test"):
        labels = [99, 3, 5, 7]
        write_parquet(tmp_path / f"{name}.parquet", random_images(4), labels, label="fine_label")
    splits = load(DataConfig("cifar100", str(tmp_path), "last:1"))
    assert splits.train.classes == 100 and splits.train.labels.tolist() == [99, 3, 5]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "folders"
    images = random_images(24, 20, 24)
    for i, image in enumerate(images):
        path = root / ("val" if i >= 18 else "train") / "abc"[i % 3] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def test_folders_are_kept_or_streamed_by_size(folders: Path) -> None:
    config = DataConfig("folder", str(folders), "last:6", image_size=20)
    kept = load(config)
    streamed = load(replace(config, resident_gb=1e-9))
    assert isinstance(kept.train, ImageSet) and isinstance(streamed.train, StreamSet)
    for a, b in (
        (kept.train, streamed.train),
        (kept.val, streamed.val),
        (kept.test, streamed.test),
    ):
        assert a.classes == b.classes == 3
        assert torch.equal(a.labels, b.labels)
        (x, _), (x2, _) = next(iter(a.batches(12))), next(iter(b.batches(12)))
        torch.testing.assert_close(x, x2)
    assert load_sizes(config) == (12, 6, 6)


def test_cifar_as_torchvision_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(40)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, part in (("data_batch_1", images[:30]), ("test_batch", images[30:])):
        flat = part.transpose(0, 3, 1, 2).reshape(len(part), -1)
        labels = [i % 10 for i in range(len(part))]
        (folder / name).write_bytes(pickle.dumps({"data": flat, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    config = DataConfig("cifar10", str(tmp_path), "last:5")
    with pytest.raises(UserError, match="cannot be had"):
        load(config)  # none of the checksums is right
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", ""]])
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    train, val, test = resident(load(config))
    np.testing.assert_array_equal(train.images.permute(0, 2, 3, 1), images[:25])
    assert (len(val), len(test)) == (5, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cifar11"}, "unknown data set 'cifar11'; closest: cifar10"),
        ({"root": None}, "data.root is missing"),
        ({"root": "/nowhere/at/all"}, "no folder /nowhere/at/all; correct data.root"),
        ({"val": "ten"}, "'ten' is not understood; write a share"),
        ({"val": "1.5"}, "must lie between 0 and 1"),
        ({"val": "last:0"}, "holds out no image"),
        ({"val": "last:60"}, "leaves none for train"),
        ({"augment": "cutout"}, "unknown augmentation 'cutout'"),
        ({"mean": (0.5,)}, "1 means and 3 deviations"),
        ({"image_size": 0}, "image_size 0"),
    ],
)
def test_bad_configurations_name_the_remedy(
    hub: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(replace(DataConfig("cifar10", str(hub)), **change))  # type: ignore[arg-type]


def test_bad_files_name_the_remedy(hub: Path, folders: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, message in (
        ("parquet", r"no train-\*.parquet in .*no Parquet file at all"),
        ("cifar10", "set data.download to true"),
        ("folder", "no folder .*train"),
    ):
        with pytest.raises(UserError, match=message):
            load(DataConfig(name, str(empty)))
    write_parquet(hub / "data/test-00000-of-00001.parquet", random_images(2), [3, 10])
    with pytest.raises(UserError, match=r"label 10 in the test split .* outside 0 to 9"):
        load(DataConfig("cifar10", str(hub)))
    write_parquet(hub / "data/test-00000-of-00001.parquet", [], [])
    with pytest.raises(UserError, match=r"test split .* has no images"):
        load(DataConfig("cifar10", str(hub)))
    (hub / "data/test-00000-of-00001.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        load(DataConfig("cifar10", str(hub)))
    write_parquet(hub / "data/train-00000-of-00002.parquet", random_images(2), [3, 4], label="y")
    with pytest.raises(UserError, match="has the columns img, y; needed are"):
        load(DataConfig("cifar10", str(hub)))
    (folders / "val" / "d").mkdir()
    with pytest.raises(UserError, match="class d, which train has not"):
        load(DataConfig("folder", str(folders)))


def test_cifar10_of_the_hub(shared: Path) -> None:
    """The first ten test images of CIFAR-10, whose labels are well known."""
    root = shared / "data" / "cifar10"
    if not root.is_dir():
        pytest.skip(f"needs CIFAR-10 as Parquet files in {root}")
    from pruning.models import files
    from search.data.parquet import Parquet

    store, path = files.filesystem(root)
    reader = Parquet(store, path, str(root), 32, DataConfig("cifar10", str(root)))
    test = reader.read("test")
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test.pixels is not None and test.pixels.shape == (10_000, 32, 32, 3)
    assert test.pixels.mean() / 255 == pytest.approx(0.4766, abs=1e-3)


def test_finding_7_10_one_class_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / split / "cat"
        folder.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(folder / f"{i}.png")
    config = DataConfig(name="folder", root=str(tmp_path), val="0.5", image_size=8)
    with pytest.raises(UserError, match="of one class; a classifier needs two"):
        load(config)
