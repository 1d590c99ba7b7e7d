"""A configuration's data set: who reads it, and its splits as sets for training and scoring."""

from __future__ import annotations

import numpy as np
import torch
from pyarrow import fs

from pruning.data import Images, ImageSet, Sharing, StreamSet
from pruning.errors import UserError
from pruning.models import files as uri
from search.data.cache import Reader, Source, cache_folder
from search.data.embedded import Digits, Torchvision
from search.data.folders import Folders
from search.data.parquet import Parquet
from search.data.spec import DataConfig, Kind


def source(config: DataConfig, size: int) -> Reader:
    """What reads the splits of a data set. Raises UserError where its files are not."""
    if config.name == "digits":
        return Digits()
    root = str(config.root)
    store, path = uri.filesystem(root)
    if store.get_file_info(path).type == fs.FileType.NotFound and not config.download:
        raise UserError(f"there is no folder {root}; correct data.root")
    if config.name == "folder":
        return Folders(store, path, root, size, config)
    parquet = Parquet(store, path, root, size, config)
    if config.name == "parquet" or parquet.files:
        return parquet
    if not isinstance(store, fs.LocalFileSystem):
        raise UserError(f"no train-*.parquet in {root}; correct data.root")
    return Torchvision(config.name, path, config.download, size)


def images(part: Source, config: DataConfig, known: Kind, classes: int) -> Images:
    """A split as the set that training and scoring take, on the CPU."""
    labels = torch.from_numpy(np.array(part.labels, dtype=np.int64))
    mean, std = config.mean or known.mean, config.std or known.std
    augment = known.augment if config.augment == "auto" else config.augment
    if part.storage is None:
        pixels = torch.from_numpy(part.pixels).permute(0, 3, 1, 2)
        return ImageSet(pixels, labels, mean, std, classes, augment)
    return StreamSet(
        part.storage,
        np.arange(len(labels)),
        labels,
        part.size,
        mean,
        std,
        classes,
        augment,
        short=config.resize or 0,
        interpolation=config.interpolation,
        sharing=Sharing(str(cache_folder()), config.kept_gb, config.shared_gb),
    )
