"""Splits: that they are disjoint, what val may be, and the cache of decoded images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pruning.data.images import ImageSet
from pruning.errors import UserError
from pruning.models.cifar import digits
from pruning.training.evaluation import evaluate
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe
from search.data import cache
from search.data.spec import DIGITS_BASE, KINDS, DataConfig, rule, stratified
from search.data.splits import load
from tests.search.data.sample_sets import load_sizes, random_images, resident, write_parquet


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


@pytest.mark.parametrize("val", ["10%", "last:5"])
def test_no_images_at_all_is_no_matter_of_data_val(val: str) -> None:
    chosen = rule(val).rows
    with pytest.raises(UserError, match=r"data\.root holds no image"):
        chosen(np.zeros(0, np.int64), 0)
