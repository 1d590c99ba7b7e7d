"""Data sets: what is loaded, that the splits are disjoint, the cache, and the errors."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import datasets

from pruning.data.images import ImageSet
from pruning.data.streams import StreamSet
from pruning.errors import UserError
from pruning.models.cifar import digits
from pruning.training.evaluation import evaluate
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe
from search.data import cache
from search.data.spec import DIGITS_BASE, KINDS, DataConfig, rule, stratified
from search.data.splits import Splits, load


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from two, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def random_images(count: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form)
    return stream.getvalue()


def write_parquet(
    path: Path,
    images: Iterable[np.ndarray],
    labels: Iterable[int],
    image: str = "img",
    label: str = "label",
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [{"bytes": encoded(i), "path": None} for i in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {image: pa.array(values, kind), label: pa.array(list(labels), pa.int64())}
    pq.write_table(pa.table(table), path)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A CIFAR-10 of 60 + 20 images in two training files."""
    images = random_images(80)
    root = tmp_path / "hub"
    for name, part in (
        ("train-00000-of-00002", slice(0, 40)),
        ("train-00001-of-00002", slice(40, 60)),
        ("test-00000-of-00001", slice(60, 80)),
    ):
        write_parquet(root / "data" / f"{name}.parquet", images[part], np.arange(80)[part] % 10)
    return root


def resident(splits: Splits) -> list[ImageSet]:
    parts = [splits.train, splits.val, splits.test]
    assert all(isinstance(part, ImageSet) for part in parts)
    return parts  # type: ignore[return-value]


def rows(part: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in part.images.contiguous()}


def test_digits_are_split_once_for_all() -> None:
    train, val, test = resident(load(DataConfig(), seed=0))
    assert len(train) + len(val) + len(test) == 1797
    assert len(test) == pytest.approx(1797 / 5, abs=5)
    assert len(val) == pytest.approx((1797 - len(test)) / 10, abs=5)
    other = resident(load(DataConfig(), seed=1))
    assert torch.equal(other[2].images, test.images)  # test never depends on the seed
    assert rows(other[1]) != rows(val)
    whole = torch.cat([train.images, val.images]) / 255
    assert whole.mean().item() == pytest.approx(KINDS["digits"].mean[0], abs=1e-3)
    assert whole.std().item() == pytest.approx(KINDS["digits"].std[0], abs=1e-3)
    for part in (train, val, test):
        assert part.shape == (1, 8, 8) and part.classes == 10 and part.augment == "shift"
        assert part.labels.unique().tolist() == list(range(10))


def test_the_digits_network_learns_by_its_recipe() -> None:
    splits = load(DataConfig())
    torch.manual_seed(0)
    model = digits()
    list(finetune(model, splits.train, Recipe(**DIGITS_BASE)))
    assert evaluate(model, splits.test.batches(512)) >= 0.97


def test_a_stratified_share_takes_from_every_class() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 4, 1])
    chosen = stratified(labels, 0.1, seed=0)
    assert np.bincount(labels[chosen], minlength=4).tolist() == [10, 5, 1, 0]
    assert not np.array_equal(chosen, stratified(labels, 0.1, seed=1))


@pytest.mark.parametrize("val", ["0.34", "last:20"])
def test_val_is_no_part_of_train(hub: Path, val: str) -> None:
    train, held, test = resident(load(DataConfig("cifar10", str(hub), val)))
    images = random_images(80)
    assert (len(train), len(held), len(test)) == (40, 20, 20)
    assert not rows(train) & rows(held)
    assert "last" in val or held.labels.bincount().tolist() == [2] * 10
    assert rows(train) | rows(held) == {
        np.ascontiguousarray(i.transpose(2, 0, 1)).tobytes() for i in images[:60]
    }
    np.testing.assert_array_equal(test.images.permute(0, 2, 3, 1), images[60:])
    assert test.labels.tolist() == [i % 10 for i in range(60, 80)]
    if val == "last:20":
        np.testing.assert_array_equal(held.images.permute(0, 2, 3, 1), images[40:60])


def test_val_may_be_a_split_of_its_own(hub: Path) -> None:
    write_parquet(hub / "valid.parquet", random_images(7, seed=1), range(7))
    train, held, test = load_sizes(DataConfig("cifar10", str(hub), "split:valid"))
    assert (train, held, test) == (60, 7, 20)
    with pytest.raises(UserError, match=r"no dev-\*.parquet .*train-00000"):
        load(DataConfig("cifar10", str(hub), "split:dev"))


def load_sizes(config: DataConfig) -> tuple[int, int, int]:
    splits = load(config)
    return len(splits.train), len(splits.val), len(splits.test)


def test_a_second_load_decodes_nothing(
    hub: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig("cifar10", str(hub))
    first = resident(load(config))
    assert len(list(cache_folder.iterdir())) == 2 and not list(cache_folder.glob(".*"))

    def fails(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(cache, "_decode", fails)
    again = resident(load(config))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    write_parquet(hub / "data/test-00000-of-00001.parquet", random_images(20, seed=9), [0] * 20)
    with pytest.raises(AssertionError, match="decoded again"):
        load(config)  # the file changed


def test_a_failed_decoding_leaves_no_cache(hub: Path, cache_folder: Path) -> None:
    path = hub / "data/train-00001-of-00002.parquet"
    table = pq.read_table(path).to_pylist()
    table[3]["img"]["bytes"] = table[3]["img"]["bytes"][:60]
    pq.write_table(pa.Table.from_pylist(table), path)
    with pytest.raises(UserError, match=r"row 3 of .*train-00001.* is no readable image"):
        load(DataConfig("cifar10", str(hub)))
    assert list(cache_folder.iterdir()) == []


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


@pytest.mark.parametrize("val", ["10%", "last:5"])
def test_no_images_at_all_is_no_matter_of_data_val(val: str) -> None:
    chosen = rule(val).rows
    with pytest.raises(UserError, match=r"data\.root holds no image"):
        chosen(np.zeros(0, np.int64), 0)
