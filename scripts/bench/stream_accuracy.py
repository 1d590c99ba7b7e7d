#!/usr/bin/env python3
"""Top-1 by torchvision's transforms and by a stream, on the same files: they should agree.

    scripts/bench/stream_accuracy.py --data tiny_imagenet --weights WEIGHTS

tf_efficientnet_lite0 scores the first test images of Tiny-ImageNet, once after torchvision's
Resize, CenterCrop, ToTensor and Normalize of Pillow images, once streamed by this project. Prints
one JSON line: both accuracies in per cent, images predicted differently, the largest difference of
a pixel (of 255), and the mean difference of the logits.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import torch
from benchmark import emit
from torch import Tensor

from pruning.data import StreamSet, shorter_side
from pruning.models.registry import resolve
from pruning.models.weights import load_weights
from search.data import DataConfig
from search.data.splits import load

HALF = (0.5, 0.5, 0.5)
BATCH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of the Parquet files")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--images", type=int, default=5000, help="of the test images, the first")
    parser.add_argument("--interpolation", default="bilinear", choices=["bilinear", "bicubic"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = resolve("timm:tf_efficientnet_lite0", {"num_classes": 200})
    load_weights(net, options.weights)
    net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = DataConfig(
        "parquet",
        str(options.data),
        "last:1",
        options.size,
        HALF,
        HALF,
        interpolation=options.interpolation,
        resident_gb=1e-9,
        kept_gb=0.0,
    )
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        os.environ["SLIMFRONT_CACHE"] = folder
        streamed = load(config, 0).test
        assert isinstance(streamed, StreamSet)
        whole = BATCH * (options.images // BATCH)
        right = [0, 0]
        differ, pixel, logits = 0, 0.0, 0.0
        ours = islice(streamed.batches(BATCH), whole // BATCH)
        theirs = reference(options.data, options.size, options.interpolation)
        for (x, y), (x2, y2) in zip(ours, theirs, strict=False):
            assert torch.equal(y, y2), "a broken image was left out, or the order is another"
            a, b = net(x), net(x2)
            right[0] += int((a.argmax(1) == y).sum())
            right[1] += int((b.argmax(1) == y).sum())
            differ += int((a.argmax(1) != b.argmax(1)).sum())
            pixel = max(pixel, float((x - x2).abs().max()) * 127.5)
            logits += float((a - b).abs().mean()) * len(y) / whole
    emit(
        "stream_accuracy",
        images=whole,
        size=options.size,
        interpolation=options.interpolation,
        stream=round(100 * right[0] / whole, 2),
        torchvision=round(100 * right[1] / whole, 2),
        predicted_differently=differ,
        largest_pixel_difference=round(pixel, 2),
        mean_logit_difference=round(logits, 5),
    )


def reference(root: Path, size: int, interpolation: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the test images by torchvision alone."""
    from PIL import Image
    from torchvision import transforms as t

    short = shorter_side(size)
    mode = t.InterpolationMode(interpolation)
    steps = [t.Resize(short, mode), t.CenterCrop(size), t.ToTensor(), t.Normalize(HALF, HALF)]
    change, waiting = t.Compose(steps), []
    for file in sorted(root.glob("test-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            encoded = (row.get("image") or row.get("img"))["bytes"]
            waiting.append((change(Image.open(io.BytesIO(encoded)).convert("RGB")), row["label"]))
            if len(waiting) == BATCH:
                images, labels = zip(*waiting, strict=True)
                yield torch.stack(images), torch.tensor(labels)
                waiting = []


if __name__ == "__main__":
    main()
