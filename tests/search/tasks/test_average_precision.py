"""mAP against a count by hand and scikit-learn's, mIoU against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search.data import dense
from search.tasks.average_precision import Found, curve_area, iou, mean_average_precision
from search.tasks.detection import decode, encode
from search.tasks.segmentation import mean_iou

BOX = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])


def test_overlap_of_boxes_by_hand() -> None:
    found = iou(BOX, np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60]]))
    np.testing.assert_allclose(found, [[1, 1 / 3, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("boxes", "scores", "expected"),
    [
        (BOX, [0.9, 0.8], 1.0),
        (BOX[:1], [0.9], 0.5),  # one of two is found
        (np.concatenate([BOX, BOX]), [0.9, 0.8, 0.7, 0.6], 1.0),  # doubles come after all is found
        (np.concatenate([BOX[:1], BOX]), [0.9, 0.8, 0.7], 0.5 + 0.5 * 2 / 3),
        (BOX + 100, [0.9, 0.8], 0.0),
    ],
)
def test_average_precision_by_hand(boxes, scores, expected) -> None:
    found = [Found(boxes, np.zeros(len(boxes), dtype=np.int64), np.array(scores))]
    kinds = [np.zeros(2, dtype=np.int64)]
    assert mean_average_precision(found, [BOX], kinds) == pytest.approx(expected)


def test_the_curve_is_at_least_scikit_learns() -> None:
    """Theirs does not make the precision fall; on scores in order they agree."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    scores = rng.random(200)
    right = rng.random(200) < scores
    theirs = average_precision_score(right, scores)
    ours = curve_area(scores, right, int(right.sum()))
    assert theirs <= ours < theirs + 0.02


def test_kinds_are_averaged_and_those_not_there_left_out() -> None:
    kinds = np.array([0, 1])
    found = [Found(BOX, np.array([0, 5]), np.array([0.9, 0.9]))]
    assert mean_average_precision(found, [BOX], [kinds]) == pytest.approx(0.5)


def test_boxes_of_scenes_come_back_from_their_targets() -> None:
    part = dense.scenes("val", 20)
    for boxes, kinds in zip(part.boxes, part.kinds, strict=True):
        heat, distances, _ = encode(boxes, kinds, 10)
        output = np.concatenate([np.where(heat >= 1, 8.0, -8.0), distances])[None]
        (found,) = decode(torch.from_numpy(output).float(), 10)
        sure = found.scores > 0.5
        there = kinds >= 0
        shared = iou(boxes[there].astype(float), found.boxes[sure])
        assert sorted(found.kinds[sure]) == sorted(kinds[there]) or sure.sum() < there.sum()
        assert shared.max(1).min() > 0.9 or sure.sum() < there.sum()


def test_scenes_are_the_same_each_time_and_boxes_hold_their_ink() -> None:
    part = dense.scenes("test", 16)
    dense.scenes.cache_clear()
    again = dense.scenes("test", 16)
    assert np.array_equal(part.images, again.images) and np.array_equal(part.masks, again.masks)
    for mask, boxes, kinds in zip(part.masks, part.boxes, part.kinds, strict=True):
        inside = np.zeros_like(mask, dtype=bool)
        for (left, top, right, bottom), kind in zip(boxes.astype(int), kinds, strict=True):
            if kind >= 0:
                assert (mask[top:bottom, left:right] == kind + 1).any()
                inside[top:bottom, left:right] = True
        assert not mask[~inside].any()


def test_mean_iou_is_its_definition() -> None:
    rng = np.random.default_rng(1)
    true, found = rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    true[true == 3] = 0
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    for a, b in zip(true, found, strict=True):
        confusion[a, b] += 1
    wanted = [
        ((true == k) & (found == k)).sum() / ((true == k) | (found == k)).sum() for k in range(3)
    ]
    assert mean_iou(confusion) == pytest.approx(np.mean(wanted))
