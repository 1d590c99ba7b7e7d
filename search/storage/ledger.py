"""The ledger: one small JSON file per finished trial, the one truth of a run."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from search.pareto import TOP1, Metric
from search.storage import checks
from search.storage import files as storage
from search.storage.row import Row, to_table

logger = logging.getLogger(__name__)


class Ledger:
    """Rows under `RUN/trials/` on any pyarrow file system (folder, file://, s3://, gs://)."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.run = storage.open_uri(uri)
        self.trials = self.run / "trials"
        self.table = self.run / "trials.parquet"
        self.guard: Callable[[], object] = lambda: None  # may refuse a write

    def write(self, row: Row, replace: bool = False) -> bool:
        """Store a row whole or not at all; False where its trial is there and not to be replaced.

        Raises UserError, naming path and remedy, where it cannot be written.
        """
        self.guard()
        location = self.trials / f"{row.trial_id}.json"
        if not replace and storage.exists(location):
            return False
        storage.write(location, row.to_json().encode())
        return True

    def rows(self, mend: bool = False, known: Mapping[str, Row] | None = None) -> list[Row]:
        """All rows by trial number; unreadable files are named in a warning and left out.

        known: rows by trial id that are not read again.
        mend: set such files aside, so that their trials can be written again. For the one that
        drives the run: who only reads it leaves it as it is.
        """
        files = storage.list_files(self.trials, ".json")
        read, known = partial(_read, mend=mend), known or {}
        new = [file for file in files if file.name.removesuffix(".json") not in known]
        with ThreadPoolExecutor(16) as pool:  # object stores: latency, not bandwidth
            rows = [row for row in pool.map(read, new) if row is not None]
        rows += [known[n] for f in files if (n := f.name.removesuffix(".json")) in known]
        return sorted(rows, key=lambda row: (row.number, row.trial_id))

    def to_table(self, rows: Iterable[Row] | None = None, metric: Metric = TOP1) -> pa.Table:
        """All rows as a table; checkpoints by their paths in the run, "" where none is kept."""
        named, kept = [], self.kept()
        for row in self.rows() if rows is None else rows:
            path = storage.own_path(row.checkpoint)
            named.append(dataclasses.replace(row, checkpoint=path if path in kept else ""))
        return to_table(named, metric)

    def kept(self) -> set[str]:
        """Paths, in the run, of the weights of trials that are there."""
        return {f"checkpoints/{f.name}" for f in storage.list_files(self.run / "checkpoints")}

    def compact(self, metric: Metric = TOP1) -> storage.Location:
        """Write all rows to `trials.parquet` and return where it is."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.to_table(metric=metric), sink)
        storage.write(self.table, sink.getvalue().to_pybytes())
        return self.table


def read_table(uri: str | os.PathLike[str]) -> pa.Table:
    """The table that `Ledger.compact` wrote for the run at `uri`."""
    return checks.renamed(storage.read_parquet(storage.open_uri(uri) / "trials.parquet"))


def _read(location: storage.Location, mend: bool) -> Row | None:
    try:
        row = Row.from_json(storage.read_bytes(location))
        if location.name != f"{row.trial_id}.json":
            raise ValueError(f"holds trial {row.trial_id}")
        return row
    except ValueError as error:
        aside = storage.set_aside(location) if mend else None
        fate = f"set aside as {aside.name}" if aside else "left out"
        logger.warning("damaged ledger file %s (%s): %s", location, error, fate)
        return None
