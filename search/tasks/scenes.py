"""The tasks of the embedded scenes: where the digits are, pixel by pixel or box by box."""

from __future__ import annotations

import torch
from torch import nn

from search.config import Config
from search.data import dense
from search.tasks.detection import Detection
from search.tasks.pictures import Pictures
from search.tasks.segmentation import Maps, Segmentation


def segmentation(config: Config, network: nn.Module | None = None) -> Segmentation:
    """Ten digits and background."""
    splits = {}
    for name in dense.SPLITS:
        part = dense.scenes(name)
        pictures = Pictures(torch.from_numpy(part.images), dense.MEAN, dense.STD)
        splits[name] = Maps(pictures, torch.from_numpy(part.masks))
    return Segmentation(config, network, splits, dense.KINDS + 1)


def detection(config: Config, network: nn.Module | None = None) -> Detection:
    return Detection(config, network, {name: dense.scenes(name) for name in dense.SPLITS})
