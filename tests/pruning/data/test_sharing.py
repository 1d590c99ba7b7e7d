"""Streams that share what one has decoded: each image once, no waiting for who is dead."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pruning.data import order, passes, sharing
from pruning.data.sharing import Sharing
from pruning.data.storage import FileStorage
from pruning.data.streams import StreamSet
from tests.pruning.data.sample_streams import generator, same, trained


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
