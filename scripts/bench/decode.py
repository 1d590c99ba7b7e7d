#!/usr/bin/env python3
"""Images a second and core: torchvision's ImageFolder and DataLoader beside this project's streams.

    python scripts/bench/decode.py ROOT [--copies 16] [--rounds 3] [--decoders]

ROOT: a folder of Parquet files with photographs (train-*.parquet, image.bytes). All sides take
random resized crops of 224 pixels, mirrors and normalisation to float32 batches of 64, on the CPU.
Both sides decode on all cores. A rate is images by the seconds of processor time that all threads
and processes took, so that other work on the machine moves it little; ratios are of one round,
medians of all rounds.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pruning.data import Batches, Images
from search.data import DataConfig, packing, splits

SIZE, BATCH = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--copies", type=int, default=16, help="of the training images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=4, help="at once, for the sharing")
    parser.add_argument("--decoders", action="store_true", help="time the decoders alone as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = [pq.read_table(f) for f in sorted(options.root.glob("train-*.parquet"))]
    images = pa.concat_tables(tables).column("image").to_pylist()
    encoded = [row["bytes"] for row in images]
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        os.environ["SLIMFRONT_CACHE"] = str(here / "cache")
        prepared(here, encoded, options.copies)
        settings = packing.Settings()
        packing.pack(str(here / "parquet"), str(here / "packed"), settings, nothing, nothing)
        rounds = [measured(here, i, options.streams) for i in range(options.rounds)]
    found: dict[str, Any] = {
        key: round(statistics.median(r[key] for r in rounds), 3) for key in rounds[0]
    }
    found["images"] = len(encoded) * options.copies
    if options.decoders:
        found["decoders_ms"] = decoders(encoded)
    found["versions"] = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    print(json.dumps(found))


def prepared(here: Path, encoded: list[bytes], copies: int) -> None:
    """The same photographs as files in folders, and as Parquet."""
    for i in range(copies * len(encoded)):
        path = here / "folder" / "train" / f"{i % 10}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded[i % len(encoded)])
    path = here / "folder" / "test" / "0" / "0.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded[0])
    (here / "parquet").mkdir()
    values = [{"bytes": data, "path": None} for data in encoded * copies]
    labels = np.arange(len(values)) % 10
    table = pa.table({"image": values, "label": labels})
    pq.write_table(table, here / "parquet" / "train.parquet", row_group_size=100)
    pq.write_table(table[:20], here / "parquet" / "test.parquet")


def measured(here: Path, round_: int, streams: int) -> dict[str, float]:
    """One round: rates in images by a second of processor time, and their ratios."""
    loader = rate(lambda: torchvision_pass(here / "folder" / "train"))
    files = rate(lambda: stream_pass(here / "folder", "folder", round_))
    original = rate(lambda: stream_pass(here / "parquet", "parquet", round_))
    packed = rate(lambda: stream_pass(here / "packed", "parquet", round_))
    one = shared(here, 1, 100 + round_)
    many = shared(here, streams, 200 + round_)
    return {
        "imagefolder": loader,
        "stream_files": files,
        "stream_parquet": original,
        "stream_packed": packed,
        "ratio_parquet": original / loader,
        "ratio_packed": packed / loader,
        f"ratio_{streams}_streams_cost": many / one,
    }


def torchvision_pass(root: Path) -> int:
    from torchvision import datasets
    from torchvision import transforms as t

    steps = [t.RandomResizedCrop(SIZE), t.RandomHorizontalFlip(), t.ToTensor()]
    data = datasets.ImageFolder(str(root), t.Compose([*steps, t.Normalize(MEAN, STD)]))
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=os.cpu_count() or 1)
    return sum(len(y) for _, y in loader)


def stream_pass(root: Path, name: str, seed: int) -> int:
    train = stream(root, name, 0)
    return sum(len(y) for _, y in batches(train, seed))


def stream(root: Path, name: str, shared_gb: float) -> Images:
    config = DataConfig(name, str(root), "last:1", resident_gb=1e-9, shared_gb=shared_gb)
    return splits.load(config).train


def batches(train: Images, seed: int) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return train.batches(BATCH, shuffle=True, augment="auto", generator=generator)


def rate(run: Callable[[], int]) -> float:
    """Images by a second of processor time, of this process and those that it started."""
    before = spent()
    images = run()
    return images / (spent() - before)


def spent() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def shared(here: Path, streams: int, seed: int) -> float:
    """Seconds of processor time of so many processes that stream one order at once."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(streams), context.Queue()
    workers = [
        context.Process(target=one_of_many, args=(here, seed, ready, results))
        for _ in range(streams)
    ]
    for worker in workers:
        worker.start()
    total = sum(results.get(timeout=600) for _ in workers)
    for worker in workers:
        worker.join()
    return total


def one_of_many(here: Path, seed: int, ready: Any, results: Any) -> None:
    torch.set_num_threads(1)
    train = stream(here / "parquet", "parquet", 4.0)
    next(iter(batches(train, 10_000 + seed)))  # what is imported and allocated once
    ready.wait(timeout=300)
    before = spent()
    for _ in batches(train, seed):
        pass
    results.put(spent() - before)


def decoders(encoded: list[bytes]) -> dict[str, float]:
    """Milliseconds of processor time an image, decoded whole to RGB."""
    import simplejpeg
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    known: dict[str, Callable[[bytes], Any]] = {
        "pillow": lambda b: np.asarray(Image.open(io.BytesIO(b)).convert("RGB")),
        "simplejpeg": lambda b: simplejpeg.decode_jpeg(b, "RGB"),
        "torchvision": lambda b: decode_jpeg(
            torch.frombuffer(bytearray(b), dtype=torch.uint8), mode=ImageReadMode.RGB
        ),
    }
    try:
        from torchcodec.decoders import decode_image

        known["torchcodec"] = decode_image
    except (ImportError, RuntimeError, OSError):
        pass
    best = dict.fromkeys(known, float("inf"))
    for _ in range(3):
        for name, decode in known.items():
            began = time.process_time()
            for data in encoded:
                decode(data)
            spent_ms = 1e3 * (time.process_time() - began) / len(encoded)
            best[name] = min(best[name], spent_ms)
    return {name: round(value, 3) for name, value in best.items()}


def nothing(*_: object) -> None:
    pass


if __name__ == "__main__":
    main()
