"""Images whose targets are maps or boxes: the scenes of digits that come along, and yours."""

from search.data.dense.maps import MaskSet, classes_of, load
from search.data.dense.scenes import KINDS, MEAN, SIDE, SPLITS, STD, Scenes, scenes

__all__ = [
    "KINDS",
    "MEAN",
    "SIDE",
    "SPLITS",
    "STD",
    "MaskSet",
    "Scenes",
    "classes_of",
    "load",
    "scenes",
]
