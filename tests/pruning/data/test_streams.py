"""Streams: torchvision's crops, one order whatever the threads, broken and missing images."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from pruning.data import crops, decoding, order, storage
from pruning.data.decoding import View, decode
from pruning.data.streams import StreamSet
from pruning.errors import UserError
from tests.pruning.data.sample_streams import generator, jpeg, photograph, same, trained


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(333, 500), (500, 375), (90, 61), (224, 224)])
def test_unaugmented_images_are_torchvisions(height: int, width: int, interpolation: str) -> None:
    image = photograph(height, width)
    mode = InterpolationMode(interpolation)
    expected = np.asarray(v2.Compose([v2.Resize(73, mode), v2.CenterCrop(64)])(image))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    found = View(64, 73, interpolation).pixels(stream.getvalue())
    assert found.shape == (64, 64, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1  # fixed-point rounding


def test_random_crops_are_distributed_as_torchvisions() -> None:
    """Side by side in 4,000 draws: where, how large, how wide; and odd images' central crops."""
    rng = np.random.default_rng(0)
    for height, width in ((375, 500), (60, 400)):
        ours = np.array(
            [crops.random_resized(height, width, rng.random(crops.DRAWS)) for _ in range(4000)]
        )
        torch.manual_seed(0)
        transform = v2.RandomResizedCrop(224)
        blank = torch.empty(3, height, width)
        theirs = np.array(
            [
                [p[k] for k in ("top", "left", "height", "width")]
                for p in (transform.make_params([blank]) for _ in range(4000))
            ]
        )
        assert (ours[:, 0] + ours[:, 2] <= height).all() and (
            ours[:, 1] + ours[:, 3] <= width
        ).all()
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            a, b = np.quantile(ours, share, axis=0), np.quantile(theirs, share, axis=0)
            np.testing.assert_allclose(a, b, atol=0.03 * width)


@pytest.mark.parametrize(("size", "most"), [(224, 0.6), (64, 4.0)])
def test_a_random_crop_is_resized_as_torchvision_does(size: int, most: float) -> None:
    """To rounding; where the part is decoded at a half, to half a pixel of where it begins."""
    image = photograph(333, 500)
    data = jpeg(image)
    draws = np.random.default_rng(3).random(crops.DRAWS)
    top, left, height, width = crops.random_resized(333, 500, draws)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    expected = v2.functional.resized_crop(whole, top, left, height, width, [size, size])
    found = View(size, size, random=True).pixels(data, draws)
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < most


def test_every_decoder_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photograph(120, 200))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)
    monkeypatch.setattr(decoding, "simplejpeg", None)
    np.testing.assert_array_equal(decode(data), expected)
    draws = np.random.default_rng(0).random(crops.DRAWS)
    without = View(100, 100, random=True).pixels(data, draws)
    monkeypatch.undo()
    np.testing.assert_array_equal(without, View(100, 100, random=True).pixels(data, draws))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_images_of_other_colours_become_rgb(mode: str) -> None:
    image = photograph(40, 40).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG" if mode in ("L", "CMYK") else "PNG")
    expected = np.asarray(Image.open(io.BytesIO(stream.getvalue())).convert("RGB"))
    assert np.abs(decode(stream.getvalue()).astype(int) - expected).max() <= (mode == "CMYK")


def test_one_and_eight_threads_give_the_same_bits(photographs: StreamSet) -> None:
    one, eight = (trained(replace(photographs, threads=n)) for n in (1, 8))
    assert same(one, eight)
    assert not same(one, trained(photographs, seed=1))
    scored = [list(replace(photographs, threads=n).batches(30)) for n in (1, 8)]
    assert same(*scored)
    assert torch.cat([y for _, y in scored[0]]).tolist() == list(range(100))


def test_passes_differ_and_can_begin_anywhere(photographs: StreamSet) -> None:
    batches = photographs.batches(
        24, shuffle=True, augment="auto", generator=generator(), drop_last=True
    )
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) == 4
    assert not same(first, second)
    assert same(second[2:], list(batches.at(1, first=2)))
    assert same(second, list(batches.at(1)))
    seen = torch.cat([y for _, y in photographs.batches(24, shuffle=True)])
    assert sorted(seen.tolist()) == list(range(100))


def test_a_batch_that_is_kept_is_not_written_over(photographs: StreamSet) -> None:
    batches = photographs.batches(10)
    held = [(x, x.clone()) for x, _ in batches]
    assert all(torch.equal(x, copy) for x, copy in held)


def test_shuffling_mixes_units_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    class Groups:
        unit_of = np.repeat(np.arange(40), 25)
        unit_bytes = np.full(40, 1000)

    monkeypatch.setattr(order, "WINDOW", 8000)
    monkeypatch.setattr(order, "FIRST", 1000)
    rows = np.flatnonzero(np.arange(1000) % 10)
    plan = order.windows(Groups, rows, 0, 0, shuffle=True)  # type: ignore[arg-type]
    assert sorted(np.concatenate([w.positions for w in plan]).tolist()) == list(range(900))
    assert [len(w.units) for w in plan] == [1, 2, 4, 8, 8, 8, 8, 1]
    mixed = np.concatenate([rows[w.positions] for w in plan])
    assert abs(np.corrcoef(np.arange(900), mixed)[0, 1]) < 0.3
    window = Groups.unit_of[rows[plan[4].positions]]
    assert len(set(window[:30].tolist())) >= 6  # of the eight units in it
    again = order.windows(Groups, rows, 0, 1, shuffle=True)  # type: ignore[arg-type]
    assert not np.array_equal(mixed, np.concatenate([rows[w.positions] for w in again]))
    straight = order.windows(Groups, rows, 0, 0, shuffle=False)  # type: ignore[arg-type]
    assert np.concatenate([w.positions for w in straight]).tolist() == list(range(900))


def test_broken_images_are_named_and_skipped(
    photographs: StreamSet, caplog: pytest.LogCaptureFixture
) -> None:
    paths = photographs.storage.paths  # type: ignore[attr-defined]
    Path(paths[7]).write_bytes(Path(paths[7]).read_bytes()[:300])
    Path(paths[50]).write_bytes(b"no image")
    seen = torch.cat([y for _, y in photographs.batches(30)]).tolist()
    assert seen == [i for i in range(100) if i not in (7, 50)]
    assert set(photographs.broken.found) == {paths[7], paths[50]}
    assert paths[7] in caplog.text and "skipped" in caplog.text
    batches = trained(photographs, size=50)
    assert [len(y) for _, y in batches] == [50, 50]  # others take their places
    assert not {7, 50} & set(torch.cat([y for _, y in batches]).tolist())
    assert same(batches, trained(replace(photographs, threads=8), size=50))


def test_what_is_gone_is_tried_again_then_an_error(
    photographs: StreamSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "WAITS", (0.05, 0.3))
    path = Path(str(photographs.storage.paths[3]))  # type: ignore[attr-defined]
    path.rename(path.with_suffix(".away"))
    back = threading.Timer(0.2, lambda: path.with_suffix(".away").rename(path))
    back.start()
    assert len(torch.cat([y for _, y in photographs.batches(30)])) == 100
    path.unlink()
    with pytest.raises(UserError, match=r"003\.jpg cannot be read, tried 3 times"):
        list(photographs.batches(30))
