"""Images in the forms that programs have them in: what comes out is what went in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler

from pruning.data.images import ImageSet
from pruning.errors import UserError
from search.data import forms, given
from search.data.splits import DataConfig

X = torch.randn(40, 3, 6, 5, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 4
PIXELS = (X.sigmoid() * 255).to(torch.uint8)


class Items(Dataset[Any]):
    def __init__(self, kind: str = "float") -> None:
        self.kind, self.calls = kind, 0

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        self.calls += 1
        if self.kind == "pil":
            return Image.fromarray(PIXELS[i].permute(1, 2, 0).numpy()), int(Y[i])
        if self.kind == "random":
            return X[i] + torch.rand(()), Y[i]
        return X[i], int(Y[i])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


def same(images: Any, x: Tensor, y: Tensor) -> None:
    batches = list(images.batches(16))
    torch.testing.assert_close(torch.cat([b for b, _ in batches]), x)
    assert torch.equal(torch.cat([labels for _, labels in batches]), y)
    assert torch.equal(images.labels, y) and images.shape == tuple(x.shape[1:])


FORMS: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "double": (X.double(), Y.int()),
    "batches": [(X[:30], Y[:30]), (X[30:], Y[30:])],
    "two batches of tensors": [[X[:20], Y[:20]], [X[20:], Y[20:]]],
    "generator": ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)),
    "list of items": list(zip(X, Y.tolist(), strict=True)),
    "dataset": Items(),
    "loader": DataLoader(Items(), batch_size=7, shuffle=True, drop_last=True),
    "loader with its own collate": DataLoader(
        Items(),
        batch_size=7,
        collate_fn=lambda items: (
            tuple(map(torch.tensor, ([], [])))
            if not items
            else (torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items]))
        ),
    ),
    "iterable": DataLoader(Stream(), batch_size=9),
    "image set": ImageSet(X, Y, (0.0,) * 3, (1.0,) * 3, 4),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_images_in_order(form: str) -> None:
    images = forms.images_of(FORMS[form], "train", DataConfig())
    assert isinstance(images, ImageSet), "kept in memory"
    same(images, X, Y)


def test_pixels_are_normalised_by_data_mean_and_std() -> None:
    config = DataConfig(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.mean, config.std))
    for source in ((PIXELS, Y), Items("pil")):
        same(forms.images_of(source, "train", config), (PIXELS / 255 - mean) / std, Y)


def test_a_dataset_that_augments_is_drawn_anew_in_each_pass() -> None:
    images = forms.images_of(DataLoader(Items("random"), batch_size=4), "train", DataConfig())
    once, again = (torch.cat([x for x, _ in images.batches(16)]) for _ in range(2))
    assert not torch.equal(once, again)
    assert torch.equal(images.labels, Y)
    part = images.subset(np.array([3, 5]))
    ((x, y),) = part.batches(10)
    assert y.tolist() == [3, 1] and len(part) == 2
    assert ((x[0] - X[3]).max() - (x[0] - X[3]).min()).abs() < 1e-5
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    orders = [
        torch.cat([y for _, y in images.batches(8, shuffle=True, generator=g)]) for g in seeds
    ]
    assert torch.equal(*orders) and not torch.equal(orders[0], Y)


def test_a_set_too_large_for_memory_is_walked_not_kept() -> None:
    images = forms.images_of(Items(), "train", DataConfig(resident_gb=1e-9))
    assert not isinstance(images, ImageSet)
    same(images, X, Y)


def test_a_loader_of_a_part_gives_that_part() -> None:
    loader = DataLoader(Items(), batch_size=4, sampler=SubsetRandomSampler([2, 9, 11]))
    same(forms.images_of(loader, "val", DataConfig()), X[[2, 9, 11]], Y[[2, 9, 11]])


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (3, "val is int; give a DataLoader"),
        ((X, Y[:3]), "40, 3, 6, 5.* and 3 labels"),
        ((X, Y.float()), "class numbers"),
        ((X, -Y), "label -3"),
        ((X * float("nan"), Y), "not finite"),
        ([], "no images"),
        ([{"x": X}], "needed are pairs"),
        ([(X[:2], Y[:2]), (X[:2, :, 1:], Y[:2])], "one shape"),
        ([(X[0], 1), (X[1, :, 1:], 2)], r"shapes \[3, 6, 5\] and \[3, 5, 5\]"),
        ([(X[0], "cat")], "label 'cat'"),
    ],
)
def test_what_is_no_set_of_images_is_refused(source: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        forms.images_of(source, "val", DataConfig())


def test_splits_are_disjoint_and_have_the_network_s_classes() -> None:
    x, y = torch.arange(400.0).view(400, 1, 1, 1), torch.arange(400) % 4
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 6))
    made = given.splits_of((x, y), None, None, DataConfig(), network=net)
    parts = [
        set(torch.cat([b for b, _ in s.batches(64)]).flatten().tolist())
        for s in (made.train, made.val, made.test)
    ]
    assert [len(part) for part in parts] == [324, 36, 40]
    assert len(set.union(*parts)) == 400
    assert made.train.classes == made.test.classes == 6
    with pytest.raises(UserError, match="label 3, but the network has 2 outputs"):
        given.splits_of(
            (x, y), None, None, DataConfig(), network=nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        )
    with pytest.raises(UserError, match="cannot read images"):
        given.splits_of((x, y), None, None, DataConfig(), network=nn.Linear(7, 4))
    with pytest.raises(UserError, match=r"val has images of shape \(1, 2, 1\)"):
        given.splits_of((x, y), (x.view(200, 1, 2, 1), y[:200]), None, DataConfig())


def test_wrappers_are_taken_off() -> None:
    net = nn.Conv2d(1, 2, 3)
    copy = given.network_of(nn.DataParallel(net))
    assert type(copy) is nn.Conv2d and copy is not net and given.name_of(copy) == "user:Conv2d"
