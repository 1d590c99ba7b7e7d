"""Encoded images to pixels of one size: decoded, cropped and resized, on the processor.

JPEGs by simplejpeg where it is installed (as fast as torchvision's and torchcodec's decoders, a
third faster than Pillow, and able to decode a half or quarter of a large image's pixels at a
fraction of the cost); whatever else, and whatever that refuses, by Pillow. All release the GIL.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from pruning.data import crops

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

JPEG = b"\xff\xd8\xff"
Encoded = bytes | memoryview
INTERPOLATIONS = ("bilinear", "bicubic")


class BrokenImageError(ValueError):
    """Bytes that are no readable image."""


@dataclass(frozen=True)
class View:
    """How an image becomes `size` pixels each way; antialiased, as torchvision does it.

    short: the shorter side that an unaugmented image is resized to before its centre crop.
    interpolation: bilinear or bicubic. random: take random resized crops instead.
    """

    size: int
    short: int
    interpolation: str = "bilinear"
    random: bool = False

    def pixels(self, data: Encoded, draws: np.ndarray | None = None) -> np.ndarray:
        """uint8 [size, size, 3]; draws: float64 [crops.DRAWS], for a random crop.

        Raises BrokenImageError.
        """
        if self.random and draws is not None:
            return self._random(data, draws)
        return fit(decode(data), self.size, self.short, self.interpolation)

    def _random(self, data: Encoded, draws: np.ndarray) -> np.ndarray:
        known = _header(data)
        if known is None:
            image = decode(data)
            box = crops.random_resized(image.shape[0], image.shape[1], draws)
        else:
            box = crops.random_resized(known[0], known[1], draws)
            factor = _factor(box, self.size)
            image = decode(data, factor)
            if factor > 1:
                box = _scaled(box, known, image.shape[:2])
        top, left, height, width = box
        part = image[top : top + height, left : left + width]
        return resize(part, self.size, self.size, self.interpolation)


def decode(data: Encoded, factor: int = 1) -> np.ndarray:
    """uint8 [H, W, 3]; a JPEG, if wished, at 1/factor of its sides (2, 4 or 8)."""
    if simplejpeg is not None and bytes(data[:3]) == JPEG:
        try:
            if factor == 1:
                return simplejpeg.decode_jpeg(data, "RGB")
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return simplejpeg.decode_jpeg(
                data,
                "RGB",
                min_height=-(-height // factor),
                min_width=-(-width // factor),
                min_factor=2,
            )
        except ValueError:
            pass  # a CMYK image, or a damaged one: Pillow knows
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenImageError(str(error).split("\n")[0]) from error


def resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """uint8 [height, width, 3], antialiased; rounds like Pillow, at a third of its time."""
    x = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)[None]
    # a part of an image would be resized, and come out, channel by channel
    x = x.contiguous(memory_format=torch.channels_last)
    out = F.interpolate(x, (height, width), mode=interpolation, antialias=True)
    return out[0].permute(1, 2, 0).numpy()


def fit(image: np.ndarray, size: int, short: int, interpolation: str = "bilinear") -> np.ndarray:
    """uint8 [size, size, 3]: the shorter side resized to `short`, then the centre."""
    height, width, _ = image.shape
    now = crops.resized(height, width, short)
    if now != (height, width):
        image = resize(image, *now, interpolation)
    top, left, _, _ = crops.centre(*now, size)
    return image[top : top + size, left : left + size]


def _header(data: Encoded) -> tuple[int, int] | None:
    """(height, width) of a JPEG at the cost of its first bytes; None for whatever else."""
    if simplejpeg is None or bytes(data[:3]) != JPEG:
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return height, width


def _factor(box: crops.Box, size: int) -> int:
    """The largest of 1, 2, 4, 8 that leaves the part at least `size` pixels each way."""
    factor = 1
    while factor < 8 and min(box.height, box.width) >= 2 * factor * size:
        factor *= 2
    return factor


def _scaled(box: crops.Box, whole: tuple[int, int], now: tuple[int, ...]) -> crops.Box:
    """A part of an image in the pixels of its smaller version."""
    down, right = now[0] / whole[0], now[1] / whole[1]
    height, width = max(1, round(box.height * down)), max(1, round(box.width * right))
    top = min(round(box.top * down), now[0] - height)
    return crops.Box(top, min(round(box.left * right), now[1] - width), height, width)


def shrunk(data: Encoded, short: int, quality: int) -> bytes:
    """A JPEG whose shorter side is at most `short` pixels; a small JPEG as it is."""
    image = decode(data)
    height, width, _ = image.shape
    if min(height, width) > short:
        image = resize(image, *crops.resized(height, width, short), "bilinear")
    elif bytes(data[:3]) == JPEG:
        return bytes(data)
    if simplejpeg is not None:
        image = np.ascontiguousarray(image)
        return simplejpeg.encode_jpeg(image, quality, "RGB", colorsubsampling="420")
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
