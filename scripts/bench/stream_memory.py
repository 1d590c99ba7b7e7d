#!/usr/bin/env python3
"""A set far larger than memory, streamed, killed and resumed: memory, and seconds to a first batch.

    python scripts/bench/stream_memory.py ROOT [--gb 20] [--batches 40] [--s3]

ROOT: a folder of Parquet files with photographs (train-*.parquet). They are repeated to shards of
about 250 MB, and those linked under many names to a set of --gb (on S3, moto's server on this
machine: copied, in shards of about 16 MB, since moto copies a whole object to read a part of it).
One process streams, is killed without warning, and another goes on; batches that both saw must
agree. Prints one JSON line; memory is the most that was resident, of the whole process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--gb", type=float, default=20.0)
    parser.add_argument("--batches", type=int, default=40, help="before and after the kill")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--first", type=int, help="(used by the script itself)")
    options = parser.parse_args()
    if options.first is not None:
        stream(os.environ["STREAM_ROOT"], options.first, options.batches, options.size)
        return
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        os.environ["SLIMFRONT_CACHE"] = str(here / "cache")
        shards, images, size = written(here / "set", options.root, options.gb, options.s3)
        server = None
        try:
            os.environ["STREAM_ROOT"] = str(here / "set")
            if options.s3:
                server, os.environ["STREAM_ROOT"] = served(here)
            found = killed_and_resumed(options.batches, options.size)
        finally:
            if server is not None:
                server.kill()
                server.wait()
    store = "moto" if options.s3 else "local"
    print(json.dumps({"store": store, "gb": size, "shards": shards, "images": images} | found))


def written(folder: Path, root: Path, gb: float, s3: bool) -> tuple[int, int, float]:
    """(shards, images, GB) of the set."""
    folder.mkdir()
    tables = [pq.read_table(f) for f in sorted(root.glob("train-*.parquet"))]
    table = pa.concat_tables(tables).select(["image", "label"])
    if not s3:
        table = pa.concat_tables([table] * 10)
    first = folder / "train-00000.parquet"
    pq.write_table(table if not s3 else table[:150], first, row_group_size=100, compression="none")
    pq.write_table(table[:10], folder / "test.parquet")
    count = max(1, round(gb * 1e9 / first.stat().st_size))
    for i in range(1, count):
        os.link(first, folder / f"train-{i:05}.parquet")
    rows = pq.read_metadata(first).num_rows
    return count, count * rows, round(count * first.stat().st_size / 1e9, 2)


def served(here: Path) -> tuple[subprocess.Popen[bytes], str]:
    """moto's server with the set in it, and the set's address."""
    from pyarrow import fs

    log = here / "moto"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=sink)
    for _ in range(1200):
        words = [w for w in log.read_text().split() if w.startswith("http://127.0.0.1:")]
        if words:
            break
        time.sleep(0.1)
    endpoint = words[0].removeprefix("http://")
    put = urllib.request.Request(f"http://{endpoint}/store", method="PUT")
    urllib.request.urlopen(put, timeout=60).close()
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    address = f"s3://store/set?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    store, path = fs.FileSystem.from_uri(address)
    for file in sorted((here / "set").iterdir()):
        with store.open_output_stream(f"{path}/{file.name}") as stream:
            stream.write(file.read_bytes())
    return server, address


def killed_and_resumed(batches: int, size: int) -> dict[str, float]:
    begun = watched(0, 2 * batches, size, kill_after=batches)
    resumed = watched(batches - 2, batches + 2, size)
    agree = [begun["hashes"][b] == resumed["hashes"][b] for b in (batches - 2, batches - 1)]
    if not all(agree):
        raise SystemExit("the resumed stream gives other batches")
    return {
        "first_batch_s": begun["first_s"],
        "first_batch_cpu_s": begun["first_cpu_s"],
        "resumed_first_batch_s": resumed["first_s"],
        "most_resident_mb": max(begun["resident"], resumed["resident"]),
    }


def watched(first: int, batches: int, size: int, kill_after: int | None = None) -> dict:
    """What a streaming process reports: seconds, resident MB, a hash of each batch."""
    command = [sys.executable, __file__, "-", "--first", str(first), "--batches", str(batches)]
    process = subprocess.Popen([*command, "--size", str(size)], stdout=subprocess.PIPE, text=True)
    found: dict = {"hashes": {}, "resident": 0.0}
    assert process.stdout is not None
    for line in process.stdout:
        row = json.loads(line)
        found["hashes"][row["batch"]] = row["hash"]
        found["resident"] = max(found["resident"], row["resident_mb"])
        found.setdefault("first_s", row["seconds"])
        found.setdefault("first_cpu_s", row["cpu_s"])
        if kill_after is not None and len(found["hashes"]) == kill_after:
            process.kill()
            break
    process.wait()
    return found


def stream(root: str, first: int, batches: int, size: int) -> None:
    import torch

    from pruning.data.streams import StreamBatches
    from search.data import DataConfig, splits

    config = DataConfig("parquet", root, "last:1", image_size=size, resident_gb=1e-9)
    began, cpu = time.perf_counter(), time.process_time()
    train = splits.load(config).train
    generator = torch.Generator().manual_seed(0)
    passes = train.batches(BATCH, shuffle=True, augment="auto", generator=generator)
    assert isinstance(passes, StreamBatches)
    for i, (x, _) in enumerate(passes.at(0, first), first):
        if i == first + batches:
            return
        status = Path("/proc/self/status").read_text()
        peak = next(ln for ln in status.splitlines() if ln.startswith("VmHWM"))
        row = {
            "batch": i,
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "hash": hashlib.sha256(np.ascontiguousarray(x.numpy()).tobytes()).hexdigest()[:16],
            "resident_mb": round(int(peak.split()[1]) / 1024),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
