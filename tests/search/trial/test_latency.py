"""Measured latency: what is reported about it, its columns, and the limit of a search."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pruning.errors import UserError
from pruning.latency import describe_device, device_of, timing
from search.deploy import latencies
from search.storage import files, record, results
from search.trial import latency
from tests.search.runs import make_rows, make_run


class Sleeper(nn.Module):
    """Takes `seconds` for each image, whatever the machine."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        time.sleep(self.seconds * len(x))
        return x.flatten(1)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MEASURE_S", 0.05)


def test_median_is_the_time_of_one_batch() -> None:
    model = Sleeper(0.002)
    found = latency.of_model(model, (1, 2, 2), 3)
    assert found.batch == 3
    assert found.median_ms >= 6  # sleeping may take longer, never less
    assert found.iqr_ms >= 0
    assert model.calls > found.runs >= timing.RUNS[0]  # some calls warmed up


def test_a_spread_is_the_interquartile_range() -> None:
    waits = iter([0.0] * 10_000)
    calls = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.02 if len(calls) % 2 else next(waits))

    found = latency.of_call(call, 1)
    assert found.iqr_ms >= 15


def test_device_and_threads_are_named() -> None:
    assert describe_device("cpu").endswith(f"{torch.get_num_threads()} thread")
    assert device_of("cpu") == "cpu"
    assert device_of("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_by_events() -> None:
    found = latency.of_model(nn.Conv2d(3, 64, 3), (3, 64, 64), 8, "cuda")
    assert found.median_ms > 0


def test_columns_are_written_with_units_and_replaced(tmp_path: Path) -> None:
    place = make_run(tmp_path, make_rows(3))
    said: list[str] = []
    latencies.measure(place, (1, 4), "cpu", say=said.append)
    assert said[0].startswith("base model: ")
    latencies.measure(place, (2,), "cpu", say=said.append)
    table = pq.read_table(tmp_path / "frontier.parquet")
    names = [name for name in table.column_names if name.startswith("latency")]
    assert names == ["latency_ms_b2", "latency_iqr_ms_b2", "latency_device", "latency_dtype"]
    unit = table.schema.field("latency_ms_b2").metadata[b"unit"].decode()
    assert unit.startswith("milliseconds for a batch of 2")
    assert all(ms > 0 for ms in table["latency_ms_b2"].to_pylist())
    assert set(table["latency_dtype"].to_pylist()) == {"float32"}
    assert table.column_names[-1] == "checkpoint"
    assert table.schema.field("macs").metadata == {b"unit": b"multiply-accumulates for one image"}
    assert results.read_base_latency(place)["latency_ms_b2"] > 0
    csv = pyarrow.csv.read_csv(tmp_path / "frontier.csv")
    assert csv.column_names == table.column_names


def test_a_run_that_goes_on_has_nothing_to_measure(tmp_path: Path) -> None:
    place = make_run(tmp_path, make_rows(4), status="running")
    with pytest.raises(UserError, match="is running, its points are no files yet"):
        latencies.measure(place, (1,), "cpu")


def test_a_run_that_was_stopped_is_measured(tmp_path: Path) -> None:
    place = make_run(tmp_path, make_rows(4))
    folder, found = files.open_uri(place), results.read_record(place)
    record.update(folder, found, status="interrupted", exported=False)
    with pytest.raises(UserError, match="its points are no files yet"):
        latencies.exported_points(place)
    assert "/points/" not in results.read(place).points[0]["checkpoint"], "a trial's weights"
    record.update(folder, found, status="interrupted", exported=True)
    latencies.measure(place, (1,), "cpu", say=lambda text: None)
    run = results.read(place)
    assert not run.finished and run.base_latency["latency_ms_b1"] > 0
    assert all(point["latency_ms_b1"] > 0 for point in run.points)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert device_of("auto") == "cpu"
    with pytest.raises(UserError, match="torch sees no GPU here"):
        device_of("cuda")
