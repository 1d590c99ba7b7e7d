"""Labelled images in whatever form a program has them: tensors, batches, Datasets, DataLoaders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    default_collate,
)

from pruning.data import DatasetSet, Images, ImageSet
from pruning.errors import UserError
from search.data.spec import DataConfig

PROBES = 16  # items that are fetched twice, to see whether a Dataset augments
BATCH = 256
Numbers = tuple[float, ...]


def images_of(source: Any, name: str, config: DataConfig) -> Images:
    """Labelled images from what a program has of them.

    source: an `Images`; a pair (x [N, C, H, W], y [N]) of tensors or arrays; a Dataset of
    (image, label); a DataLoader; or batches (x, y), walked once. Floats are taken as the network
    takes them; uint8 pixels are divided by 255 and normalised by data.mean and data.std. A Dataset
    that gives the same items twice is kept in memory, if it needs no more than data.resident_gb;
    one that augments is walked anew in each pass.
    """
    if all(hasattr(source, part) for part in ("batches", "subset", "labels", "shape", "classes")):
        return source.to("cpu")  # type: ignore[no-any-return]
    if isinstance(source, DataLoader):
        found = _dataset_of(source)
        if found is None:
            return _of_batches(source, name, config)
        return _of_dataset(found, source.num_workers, name, config)
    if isinstance(source, tuple | list) and len(source) == 2 and _is_pair(*source):
        return _of_tensors([source[0]], [source[1]], name, config)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and len(source):
        item = source[0]
        if isinstance(source, Dataset) or not _is_pair(*_two(item, name)):
            return _of_dataset(source, 0, name, config)
    if isinstance(source, Iterable):
        return _of_batches(source, name, config)
    raise UserError(
        f"{name} is {type(source).__name__}; give a DataLoader, a Dataset of (image, label), "
        "a list of batches (x, y), or a pair of tensors"
    )


def _dataset_of(loader: DataLoader[Any]) -> Dataset[Any] | None:
    """The items of a loader by number; None where they exist only as its batches."""
    plain = loader.collate_fn is default_collate and loader.batch_size is not None
    if not plain or isinstance(loader.dataset, IterableDataset):
        return None
    if isinstance(loader.sampler, SubsetRandomSampler):
        return Subset(loader.dataset, list(loader.sampler.indices))
    whole = isinstance(loader.sampler, RandomSampler | SequentialSampler)
    return loader.dataset if whole else None


def _of_dataset(dataset: Any, workers: int, name: str, config: DataConfig) -> Images:
    count = len(dataset)
    if not count:
        raise UserError(f"{name} has no images")
    probes = np.unique(np.linspace(0, count - 1, min(PROBES, count)).astype(int)).tolist()
    once, again = ([_item(dataset[i], name) for i in probes] for _ in range(2))
    steady = all(torch.equal(a, b) for (a, _), (b, _) in zip(once, again, strict=True))
    first = once[0][0]
    other = next((image for image, _ in once if image.shape != first.shape), None)
    if other is not None:
        raise UserError(
            f"{name} has images of shapes {list(first.shape)} and {list(other.shape)}; "
            "let its transform bring them to one"
        )
    size = first.numel() * first.element_size() * count / 1e9
    items = _Items(dataset, name)
    if steady and size <= config.resident_gb:
        loader: DataLoader[Any] = DataLoader(items, batch_size=BATCH, num_workers=workers)
        return _of_batches(loader, name, config)
    labels = _labels_of(dataset)
    if labels is None:
        loader = DataLoader(_Labels(dataset), batch_size=BATCH, num_workers=workers)
        labels = torch.cat([_class_numbers(part, name) for part in loader])
    mean, std = _normalisation(config, first.shape[0])
    shape = (first.shape[0], first.shape[1], first.shape[2])
    return DatasetSet(items, labels, shape, mean, std, int(labels.max()) + 1, workers)


def _of_batches(batches: Iterable[Any], name: str, config: DataConfig) -> Images:
    """One pass over batches, kept in memory."""
    found = [_two(batch, name) for batch in batches]
    return _of_tensors([x for x, _ in found], [y for _, y in found], name, config)


def _of_tensors(xs: Sequence[Any], ys: Sequence[Any], name: str, config: DataConfig) -> Images:
    if not xs or not sum(len(x) for x in xs):
        raise UserError(f"{name} has no images")
    try:
        images = torch.cat([torch.as_tensor(x).detach().cpu() for x in xs])
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{name}: the images are not of one shape and type ({error})") from error
    labels = torch.cat([_class_numbers(y, name) for y in ys])
    if images.ndim != 4 or len(images) != len(labels):
        raise UserError(
            f"{name} has images {list(images.shape)} and {len(labels)} labels; "
            "needed are [N, C, H, W] and as many"
        )
    if images.dtype != torch.uint8:
        images = images.to(torch.float32)
        if not images.isfinite().all():
            raise UserError(f"{name} has images that are not finite; leave them out")
    mean, std = _normalisation(config, images.shape[1])
    return ImageSet(images, labels, mean, std, int(labels.max()) + 1)


def _class_numbers(labels: Any, name: str) -> Tensor:
    found = torch.as_tensor(labels).detach().cpu()
    if found.ndim != 1 or found.is_floating_point() or found.is_complex():
        raise UserError(
            f"{name}: labels are {found.dtype} {list(found.shape)}; "
            "needed are class numbers, int64 [N]"
        )
    if len(found) and int(found.min()) < 0:
        raise UserError(f"{name}: there is a label {int(found.min())}; leave those images out")
    return found.to(torch.int64)


def _labels_of(dataset: Any) -> Tensor | None:
    """Labels without the images, where a Dataset has them as torchvision's do."""
    if isinstance(dataset, Subset):
        whole = _labels_of(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(list(dataset.indices))]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    found = getattr(dataset, "targets", None)
    try:
        labels = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        return None
    good = labels.ndim == 1 and len(labels) == len(dataset) and not labels.is_floating_point()
    return labels.to(torch.int64) if good else None


def _normalisation(config: DataConfig, channels: int) -> tuple[Numbers, Numbers]:
    return config.mean or (0.0,) * channels, config.std or (1.0,) * channels


def _is_pair(x: Any, y: Any) -> bool:
    """Whether these are all images and all labels, rather than two batches or one item."""
    return getattr(x, "ndim", 0) == 4 and getattr(y, "ndim", 0) == 1


def _two(batch: Any, name: str) -> tuple[Any, Any]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise UserError(f"{name} gives {type(batch).__name__}; needed are pairs (image, label)")


def _item(item: Any, name: str) -> tuple[Tensor, int]:
    """One image as a tensor [C, H, W], uint8 or float32, and its class number."""
    image, label = _two(item, name)
    if not isinstance(image, Tensor):
        array = np.array(image)  # a PIL image or an array: [H, W] or [H, W, C] where it is uint8
        if array.dtype == np.uint8 and not isinstance(image, np.ndarray):
            array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        image = torch.from_numpy(array)
    if image.ndim != 3:
        raise UserError(f"{name} has an image {list(image.shape)}; needed is [C, H, W]")
    if image.dtype != torch.uint8:
        image = image.to(torch.float32)
    try:
        return image, int(label)
    except (TypeError, ValueError):
        raise UserError(f"{name} has the label {label!r}; needed is a class number") from None


class _Items(Dataset[Any]):
    """A Dataset whose items are tensors and class numbers."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return _item(self.dataset[index], self.name)


class _Labels(Dataset[Any]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> int:
        return int(self.dataset[index][1])
