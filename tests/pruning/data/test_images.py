"""Image sets: what a batch holds, where augmentation moves pixels, and that passes repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pruning.data.images import ImageSet
from pruning.data.storage import local_files
from pruning.data.streams import StreamSet
from pruning.errors import UserError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def make(count: int = 20, height: int = 6, width: int = 5, augment: str = "none") -> ImageSet:
    images = torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8)
    return ImageSet(images, torch.arange(count), MEAN, STD, count, augment)


def pixels(x: Tensor) -> Tensor:
    """Undo the normalisation."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return ((x * std + mean) * 255).round().to(torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(image: Tensor, down: int, right: int, mirror: bool) -> Tensor:
    """Reference: pad with black, cut out, mirror."""
    pad = 4
    padded = torch.nn.functional.pad(image, (pad,) * 4)
    _, height, width = image.shape
    cut = padded[:, pad + down : pad + down + height, pad + right : pad + right + width]
    return cut.flip(2) if mirror else cut


def test_batches_hold_every_image_once_normalised_and_channels_last() -> None:
    data = make()
    batches = data.batches(8, shuffle=True, generator=generator())
    assert len(batches) == 3
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(y.tolist()) == list(range(20)) and y.tolist() != list(range(20))
    expected = (data.images[y].double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    torch.testing.assert_close(x.double(), expected, atol=1e-6, rtol=1e-6)
    for x, _ in batches:
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
    assert [len(y) for _, y in data.batches(8, drop_last=True)] == [8, 8]
    assert torch.cat([y for _, y in data.batches(8)]).tolist() == list(range(20))


@pytest.mark.parametrize(("augment", "pad", "flip"), [("flip", 0, True), ("crop-flip", 4, True)])
def test_augmented_images_are_shifts_and_mirrors(augment: str, pad: int, flip: bool) -> None:
    data = make(40)
    moves = [
        (down, right, mirror)
        for down in range(-pad, pad + 1)
        for right in range(-pad, pad + 1)
        for mirror in (False, True)
    ]
    seen = set()
    for x, y in data.batches(40, augment=augment, generator=generator()):
        for image, label in zip(pixels(x), y, strict=True):
            which = [m for m in moves if torch.equal(moved(data.images[label], *m), image)]
            assert which, "no shift and mirror of the original gives this image"
            seen.update(which)
    assert {mirror for *_, mirror in seen} == {False, True}
    assert len({down for down, *_ in seen}) >= min(2 * pad + 1, 6)
    assert all(abs(down) <= pad and abs(right) <= pad for down, right, _ in seen)


def test_shift_reaches_all_nine_places_and_never_mirrors() -> None:
    data = make(1, 8, 8)
    data = data.subset([0] * 200)
    ((x, _),) = data.batches(200, augment="shift", generator=generator())
    places = {
        next(
            (down, right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if torch.equal(moved(data.images[0], down, right, False), image)
        )
        for image in pixels(x)
    }
    assert len(places) == 9


def test_a_seed_gives_the_same_passes_and_each_pass_differs() -> None:
    data = make(augment="crop-flip")

    def passes(seed: int) -> list[Tensor]:
        batches = data.batches(20, shuffle=True, augment="auto", generator=generator(seed))
        return [next(iter(batches))[0] for _ in range(2)]

    first, second = passes(1)
    assert not torch.equal(first, second)
    assert torch.equal(passes(1)[0], first) and torch.equal(passes(1)[1], second)
    assert not torch.equal(passes(2)[0], first)


def test_subset_by_slice_shares_memory_and_by_index_keeps_its_order() -> None:
    data = make()
    part = data.subset(slice(5, 15))
    assert part.labels.tolist() == list(range(5, 15))
    assert part.images.untyped_storage().data_ptr() == data.images.untyped_storage().data_ptr()
    picked = data.subset(np.array([7, 3]))
    assert picked.labels.tolist() == [7, 3]
    assert torch.equal(picked.images, data.images[[7, 3]])
    assert (len(picked), picked.shape, picked.classes) == (2, (3, 6, 5), 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, "uint8 or float32"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "2 images but 3 labels"),
        ({"mean": (0.5,)}, "1 means"),
        ({"augment": "crop"}, "unknown augmentation 'crop'"),
    ],
)
def test_wrong_input_is_refused(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "labels": torch.zeros(2, dtype=torch.int64),
        "mean": MEAN,
        "std": STD,
        "classes": 2,
    }
    with pytest.raises(UserError, match=message):
        ImageSet(**(good | change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="batch size 0"):
        make().batches(0)


@pytest.fixture
def stream(tmp_path: Path) -> StreamSet:
    rng = np.random.default_rng(0)
    files = []
    for i in range(6):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(files[-1])
    return StreamSet(local_files(files), np.arange(6), torch.arange(6), 16, MEAN, STD, 6)


def test_a_stream_gives_what_a_resident_set_gives(stream: StreamSet) -> None:
    images = torch.stack(
        [torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1) for f in stream.storage.paths]
    )
    resident = ImageSet(images, stream.labels, MEAN, STD, 6)
    for (x, y), (x2, y2) in zip(stream.batches(4), resident.batches(4), strict=True):
        torch.testing.assert_close(x, x2)
        assert torch.equal(y, y2) and x.is_contiguous(memory_format=torch.channels_last)
    assert stream.subset([4, 2]).labels.tolist() == [4, 2]
    assert (len(stream), stream.shape, len(stream.batches(4))) == (6, (3, 16, 16), 2)


def test_stream_augmentation_repeats_for_a_seed_whatever_the_threads(
    stream: StreamSet,
) -> None:
    from dataclasses import replace

    def run(seed: int, threads: int = 1) -> Tensor:
        batches = replace(stream, threads=threads).batches(
            6, shuffle=True, augment="auto", generator=generator(seed)
        )
        return next(iter(batches))[0]

    assert torch.equal(run(1), run(1, threads=8))
    assert not torch.equal(run(1), run(2))
