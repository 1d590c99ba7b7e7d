"""Images with a mask each, as users have them: folders of both, or Parquet files."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pyarrow import fs

from pruning.data import cores
from pruning.errors import UserError
from pruning.models import files as uri
from search.data.cache import TEST_NAMES
from search.data.folders import SUFFIXES
from search.data.spec import OWN_FILES, DataConfig, kind, rule

SIDE = 224  # pixels, where nobody says
FOLDERS = ("images", "masks")
COLUMNS = {"image": ("image", "img"), "mask": ("mask", "label", "annotation", "segmentation_mask")}
Pair = tuple[str, Any, Any]
"""Name of an image, and how its bytes and those of its mask are read."""


@dataclass(frozen=True)
class MaskSet:
    """images: uint8 [N, 3, S, S]; masks: uint8 [N, S, S], classes from 0; 255 counts not."""

    images: np.ndarray
    masks: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> MaskSet:
        return MaskSet(self.images[rows], self.masks[rows])


def load(config: DataConfig, seed: int = 0) -> dict[str, MaskSet]:
    """train, val and test of `data`; UserError where something is amiss.

    folder: ROOT/train and ROOT/test (or val), each with images/NAME.jpg and masks/NAME.png.
    parquet: train-*.parquet and test-*.parquet with encoded images and masks. A mask is a picture
    of one channel, or of a palette, whose values are the classes. Both are resized so that the
    shorter side is data.image_size, and centre-cropped.
    """
    kind(config)
    if config.name not in OWN_FILES:
        raise UserError(
            f"data.name {config.name} has no masks; set folder (train/images and train/masks) or "
            "parquet, and data.root"
        )
    held = rule(config.val)
    store, path = uri.filesystem(str(config.root))
    read = _folder if config.name == "folder" else _parquet
    found = {
        split: _decoded(list(read(store, path, names)), config, names[0])
        for split, names in (
            ("train", ("train",)),
            ("test", TEST_NAMES),
            *((("val", (held.split,)),) if held.split else ()),
        )
    }
    if held.split is None:
        train = found["train"]
        chosen = held.rows(np.zeros(len(train.masks), dtype=np.int64), seed)
        found |= {"train": train[~chosen], "val": train[chosen]}
    return found


def classes_of(splits: Mapping[str, MaskSet]) -> int:
    """As many as the masks of train say. UserError where another split has more."""
    highest = {name: _highest(part.masks) for name, part in splits.items()}
    for name, value in highest.items():
        if value > highest["train"]:
            raise UserError(
                f"the masks of {name} have class {value}, those of train only up to "
                f"{highest['train']}; mend the masks (255 is for pixels that do not count)"
            )
    if highest["train"] < 1:
        raise UserError("all pixels of the masks are of one class; a segmentation needs two")
    return highest["train"] + 1


def _highest(masks: np.ndarray) -> int:
    counted = masks[masks != 255]
    return int(counted.max()) if counted.size else 0


def _folder(store: fs.FileSystem, path: str, names: tuple[str, ...]) -> Iterator[Pair]:
    """The pairs of a split in the order of their names."""
    for split in names:
        top = posixpath.join(path.rstrip("/"), split)
        if store.get_file_info(posixpath.join(top, FOLDERS[0])).type != fs.FileType.Directory:
            continue
        images, masks = (_files(store, posixpath.join(top, part)) for part in FOLDERS)
        for stem, file in sorted(images.items()):
            if stem not in masks:
                raise UserError(f"{file} has no mask {top}/{FOLDERS[1]}/{stem}.png; add it")
            yield file, (store, file), (store, masks[stem])
        return
    raise UserError(
        f"there is no folder {path}/{names[0]}/{FOLDERS[0]}; a segmentation needs "
        "train/images, train/masks, test/images and test/masks"
    )


def _files(store: fs.FileSystem, folder: str) -> dict[str, str]:
    """Pictures in a folder by their names without ending."""
    try:
        found = store.get_file_info(fs.FileSelector(folder))
    except FileNotFoundError:
        raise UserError(f"there is no folder {folder}; correct data.root") from None
    names = [f.path for f in found if f.is_file and f.path.lower().endswith(SUFFIXES)]
    return {posixpath.splitext(posixpath.basename(name))[0]: name for name in names}


def _parquet(store: fs.FileSystem, path: str, names: tuple[str, ...]) -> Iterator[Pair]:
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    files = sorted(f.path for f in store.get_file_info(selector) if f.path.endswith(".parquet"))
    for split in names:
        own = [f for f in files if posixpath.basename(f).startswith(f"{split}-")]
        for file in own:
            table = pq.read_table(file, filesystem=store)
            image, mask = (_column(table.column_names, which, file) for which in COLUMNS)
            for i, (x, y) in enumerate(
                zip(table[image].to_pylist(), table[mask].to_pylist(), strict=True)
            ):
                yield f"row {i} of {file}", x, y
        if own:
            return
    raise UserError(f"no {names[0]}-*.parquet in {path}; correct data.root")


def _column(names: list[str], which: str, file: str) -> str:
    found = next((name for name in COLUMNS[which] if name in names), None)
    if found is None:
        raise UserError(f"{file} has no column {which} (it has {', '.join(names)}); name one so")
    return found


def _decoded(pairs: list[Pair], config: DataConfig, split: str) -> MaskSet:
    side = config.image_size or SIDE
    needed = len(pairs) * 4 * side**2 / 1e9
    if not pairs:
        raise UserError(f"the {split} split in {config.root} has no images; check data.root")
    if needed > config.resident_gb:
        raise UserError(
            f"{len(pairs)} images of {side} pixels take {needed:.1f} GB; set a smaller "
            "data.image_size, or raise data.resident_gb"
        )
    with ThreadPoolExecutor(cores()) as pool:
        made = list(pool.map(lambda pair: _pair(pair, side), pairs))
    return MaskSet(np.stack([x for x, _ in made]), np.stack([y for _, y in made]))


def _pair(pair: Pair, side: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [3, S, S] and [S, S]."""
    from PIL import Image

    name, image, mask = pair
    try:
        with Image.open(io.BytesIO(_bytes(image))) as x, Image.open(io.BytesIO(_bytes(mask))) as y:
            if y.mode not in ("L", "P", "1", "I", "I;16"):
                raise UserError(f"the mask of {name} is {y.mode}; one channel of classes is needed")
            if x.size != y.size:
                raise UserError(f"{name} is {x.size}, its mask {y.size}; they must be of one size")
            picture = _square(x.convert("RGB"), side, Image.Resampling.BILINEAR)
            map_ = _square(y, side, Image.Resampling.NEAREST)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{name} or its mask cannot be read ({error}); mend or remove it"
        ) from error
    found = np.asarray(map_)
    if found.min() < 0 or found.max() > 255:
        raise UserError(f"the mask of {name} has values up to {found.max()}; 0 to 255 are classes")
    return np.asarray(picture).transpose(2, 0, 1).copy(), found.astype(np.uint8)


def _square(image: Any, side: int, how: Any) -> Any:
    """The shorter side resized, the centre cropped."""
    scale = side / min(image.size)
    width, height = (max(side, round(n * scale)) for n in image.size)
    image = image.resize((width, height), how)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _bytes(source: Any) -> bytes:
    if isinstance(source, tuple):
        store, path = source
        with store.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data
    found = source.get("bytes") if isinstance(source, dict) else source
    if not isinstance(found, bytes):
        raise TypeError("no encoded bytes")
    return found
