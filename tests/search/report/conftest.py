"""A large run with its report, made once for the page and the browser."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search.cli import main
from search.deploy import latencies
from search.frontier.baselines import COLUMNS
from search.pareto import TOP1
from search.storage import table_schema
from tests.search.runs import failed, make_rows, make_run

LATENCIES = {"latency_ms_b1": 0.5, "latency_iqr_ms_b1": 0.1, "latency_device": "a <chip>"}


def compared(folder: Path) -> None:
    row = {"method": "peel", "asked_share": 0.5, "macs": 500_000, "params": 20_000}
    row |= {"score_test_mean": 0.9, "score_test_std": 0.01, "score_gap": 0.012, "cost_gap": -0.05}
    schema = table_schema(COLUMNS, TOP1)
    pq.write_table(pa.Table.from_pylist([row], schema=schema), folder / "comparison.parquet")


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 trials: three methods, failures with a hostile reason, latencies and a comparison."""
    folder = tmp_path_factory.mktemp("runs") / "big"
    rows = make_rows(500, methods=("uniform", "balanced", "peel"))
    for number in range(7, 500, 40):
        rows[number] = failed(rows[number], "</script><img src=x onerror=alert(1)> & broke")
    for number in range(9, 500, 60):
        rows[number] = failed(rows[number], "max_macs missed by 3.0%", "infeasible")
    make_run(folder, rows)
    table = pq.read_table(folder / "frontier.parquet")
    timed = latencies.add_columns(table, [LATENCIES] * table.num_rows, LATENCIES)
    pq.write_table(timed, folder / "frontier.parquet")
    compared(folder)
    assert main(["report", str(folder)]) == 0
    return folder
