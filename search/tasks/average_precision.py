"""Average precision of boxes, as Pascal VOC 2010 has it: the area under the whole curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """Boxes of one image. boxes: [N, 4] left, top, right, bottom; kinds: [N]; scores: [N]."""

    boxes: Array
    kinds: NDArray[np.int64]
    scores: Array


def mean_average_precision(
    found: Sequence[Found],
    boxes: Sequence[Array],
    kinds: Sequence[NDArray[np.int64]],
    overlap: float = 0.5,
) -> float:
    """mAP, a fraction: the mean of the kinds' average precisions, of kinds that there are.

    boxes, kinds: what is there, by image. A box is right where its intersection over union with
    one of its kind that no better box has taken is `overlap` or more.
    """
    there = sorted({int(k) for own in kinds for k in own})
    if not there:
        return 0.0
    return float(np.mean([_precision(found, boxes, kinds, k, overlap) for k in there]))


def _precision(
    found: Sequence[Found],
    boxes: Sequence[Array],
    kinds: Sequence[NDArray[np.int64]],
    kind: int,
    overlap: float,
) -> float:
    scores, right = [], []
    for each, true, names in zip(found, boxes, kinds, strict=True):
        own = np.flatnonzero(each.kinds == kind)
        own = own[np.argsort(-each.scores[own], kind="stable")]
        wanted = true[names == kind]
        shared = iou(each.boxes[own], wanted)
        taken = np.zeros(len(wanted), dtype=bool)
        for row, i in zip(shared, own, strict=True):
            free = np.where(taken, -1.0, row)
            best = int(free.argmax()) if len(free) else -1
            hit = best >= 0 and free[best] >= overlap
            if hit:
                taken[best] = True
            scores.append(float(each.scores[i]))
            right.append(hit)
    total = sum(int((names == kind).sum()) for names in kinds)
    return curve_area(np.array(scores), np.array(right, dtype=bool), total)


def curve_area(scores: Array, right: NDArray[np.bool_], total: int) -> float:
    """Area under precision over recall, precision made falling; total: how many there are."""
    if not len(scores):
        return 0.0
    hits = right[np.argsort(-scores, kind="stable")]
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    recall = true / max(total, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def iou(a: Array, b: Array) -> Array:
    """Intersection over union [N, M] of boxes [N, 4] and [M, 4]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    made: Array = shared / np.maximum(union, 1e-12)
    return made
