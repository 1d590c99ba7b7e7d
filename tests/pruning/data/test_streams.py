"""Streams: torchvision's crops, one order whatever the threads, broken images, sharing."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from pruning.data import crops, decoding, order, passes, sharing, storage
from pruning.data.decoding import View, decode
from pruning.data.sharing import Sharing
from pruning.data.storage import FileStorage, local_files
from pruning.data.streams import StreamSet
from pruning.errors import UserError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth, as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()


@pytest.fixture
def photographs(tmp_path: Path) -> StreamSet:
    """100 JPEGs of several sizes; label and row are one."""
    paths = []
    for i in range(100):
        paths.append(str(tmp_path / f"{i:03}.jpg"))
        Path(paths[-1]).write_bytes(jpeg(photograph(40 + i % 7, 50 + i % 5, i)))
    rows = np.arange(100)
    return StreamSet(local_files(paths), rows, torch.from_numpy(rows), 32, MEAN, STD, 100)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(stream: StreamSet, seed: int = 0, size: int = 24) -> list[tuple[Tensor, Tensor]]:
    batches = stream.batches(
        size, shuffle=True, augment="auto", generator=generator(seed), drop_last=True
    )
    return list(batches)


def same(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, x2) and torch.equal(y, y2) for (x, y), (x2, y2) in zip(a, b, strict=True)
    )


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


def test_processes_share_what_one_has_decoded(
    photographs: StreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = trained(photographs)
    together = replace(photographs, sharing=Sharing(str(tmp_path / "cache")))
    assert same(alone, trained(together))

    def fails(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(passes.Pass, "_decode", fails)
    assert same(alone, trained(together))
    with pytest.raises(AssertionError, match="decoded again"):
        trained(together, seed=1)


def test_four_streams_at_once_decode_each_block_once(
    photographs: StreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = replace(photographs, sharing=Sharing(str(tmp_path / "cache")), threads=2)
    original, calls = passes.Pass._decode, []

    def counted(self: passes.Pass, block: order.Block, *rest: object) -> sharing.Decoded:
        calls.append(block.index)
        return original(self, block, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(passes.Pass, "_decode", counted)
    found: list[list[tuple[Tensor, Tensor]]] = []
    threads = [threading.Thread(target=lambda: found.append(trained(together))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == list(range(4))
    assert len(found) == 4 and all(same(found[0], other) for other in found)


def test_one_of_four_streams_reads_the_files(
    photographs: StreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for what it has in work, though they would need the same window."""
    together = replace(photographs, sharing=Sharing(str(tmp_path / "cache")), threads=2)
    load, read = FileStorage.load, []

    def counted(self: FileStorage, unit: int) -> Any:
        read.append(unit)
        time.sleep(0.002)
        return load(self, unit)

    monkeypatch.setattr(FileStorage, "load", counted)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(trained(together))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 100
    assert len(found) == 4 and all(same(found[0], other) for other in found)
    assert not list((tmp_path / "cache").rglob("*.lead"))


def test_nobody_waits_for_a_leader_that_stands_still_or_died(
    photographs: StreamSet, tmp_path: Path
) -> None:
    """What a leader has not begun is decoded at once, and what a dead one began as well."""
    together = replace(photographs, sharing=Sharing(str(tmp_path / "cache")))
    ahead = iter(together.batches(8, shuffle=True, augment="auto", generator=generator()))
    next(ahead)  # leads, and goes no further
    began = time.monotonic()
    expected = trained(photographs)
    assert same(expected, trained(together))
    folder = next((tmp_path / "cache" / "ring").iterdir())
    for place in folder.glob("*.u8"):
        place.unlink()
    ahead.close()  # type: ignore[attr-defined]
    (folder / "0.lead").write_bytes((99).to_bytes(8, "little"))  # of a process that was killed
    assert same(expected, trained(together))
    assert time.monotonic() - began < sharing.PATIENCE_S


def test_the_ring_stays_within_its_size(
    photographs: StreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "SWEEP", 1)
    block = 32 * 32 * 32 * 3
    together = replace(photographs, sharing=Sharing(str(tmp_path), ring_gb=2.5 * block / 1e9))
    for seed in range(3):
        trained(together, seed)
    left = [p.stat().st_size for p in (tmp_path / "ring").rglob("*.u8")]
    assert 0 < sum(left) <= 2.6 * block


def test_a_dead_process_holds_nobody_up(photographs: StreamSet, tmp_path: Path) -> None:
    together = replace(photographs, sharing=Sharing(str(tmp_path)))
    expected = trained(together)
    for place in (tmp_path / "ring").rglob("*.u8"):
        place.with_suffix(".lock").touch()  # left by a process that was killed
        place.unlink()
    assert same(expected, trained(together))


def test_fixed_sets_are_decoded_once_and_kept_in_order(
    photographs: StreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(photographs.storage.paths[4]).write_bytes(b"no image")  # type: ignore[attr-defined]
    index = np.random.default_rng(0).permutation(100)[:70]
    index[5] = 4
    expected = list(photographs.subset(index).batches(16))
    together = replace(photographs, sharing=Sharing(str(tmp_path))).subset(index)
    first = list(together.batches(16))
    assert torch.equal(torch.cat([x for x, _ in first]), torch.cat([x for x, _ in expected]))
    monkeypatch.setattr(passes.Pass, "_decode", None)
    again = list(together.batches(16))
    assert same(first, again)
    assert 4 not in torch.cat([y for _, y in again])
    with pytest.raises(TypeError):  # too large to be kept: decoded anew
        list(replace(together, sharing=Sharing(str(tmp_path), kept_gb=1e-9)).batches(16))


def test_a_cache_that_cannot_be_written_does_no_harm(
    photographs: StreamSet, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    together = replace(photographs, sharing=Sharing(str(tmp_path / "file")))
    assert same(trained(photographs), trained(together))
    assert same(list(photographs.batches(40)), list(together.batches(40)))
