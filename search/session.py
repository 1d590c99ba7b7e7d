"""One session of a run: what its steps share, what it says, and what it leaves in the folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pruning.errors import UserError
from pruning.methods import Problem
from search.backend import Member, TrialResources, base_task, final
from search.config import Config
from search.config import loader as configuration
from search.frontier import correlation, points
from search.pareto import Reference, growth
from search.report import page
from search.storage import Row, record, results
from search.storage import files as storage
from search.study import Study
from search.trial import BaseModel, base_model

Say = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """A run that this process drives. record: run.json as it was when the session began."""

    config: Config
    base: BaseModel
    study: Study
    share: TrialResources
    record: Mapping[str, Any]
    say: Say

    @property
    def place(self) -> storage.Location:
        return storage.open_uri(self.config.out)

    @property
    def reference(self) -> Reference:
        return record.reference(self.record)

    @property
    def complete(self) -> list[Row]:
        """Trials that ran to their end."""
        return [row for row in self.study.rows if row.status == "complete"]

    def finish(self, members: Sequence[Member]) -> None:
        """Write the final frontier of `members` and the report; the run is complete."""
        members = self._timed(members)
        rows = self.study.rows
        self._export(members, self.record)
        cost = {
            "trials": self.study.finished,
            "seconds": sum(row.wall_s for row in rows),
            "final_seconds": final.seconds(self.config),
        }
        record.update(self.place, self.record, status="complete", frontier=len(members), cost=cost)
        page.write(self.config.out)
        if expected := growth.outlook(rows, self.reference):
            self.say(expected)
        for line in (
            *map(str, filter(None, [correlation.foretold(map(vars, rows))])),
            *correlation.remarks(rows, self.study.axis, self.base.metric),
            *_failures(rows),
        ):
            self.say(line)

    def _timed(self, members: Sequence[Member]) -> list[Member]:
        """Members measured whole, those of an earlier session excepted; their rows say it, too."""
        new = [member.row for member in members if member.row.measured_ms is None]
        if self.study.cost.latency is None or not new:
            return list(members)
        self.say(f"measuring {len(new)} networks whole, one after the other")
        device, timings = base_task.measure(self.config, self.base, new, self.share)
        if device != (known := self.record["base"]["latency"]["runtime"]):
            self.say(f"measured with {device}, foretold for {known}: these may differ")
        rows = {row.trial_id: row for row in self.study.rows}
        for row, found in zip(new, timings, strict=True):
            row = replace(row, measured_ms=found.median_ms, measured_iqr_ms=found.iqr_ms)
            self.study.ledger.write(row, replace=True)
            rows[row.trial_id] = row
        self.study.rows = list(rows.values())
        return [replace(member, row=rows[member.row.trial_id]) for member in members]

    def put_away(self) -> None:
        """Leave an interrupted run with the frontier so far, and say how to go on."""
        self.study.close()
        current = record.update(self.place, self.record, status="interrupted", exported=False)
        members = final.so_far(self.config, self.base, self.complete)
        self._export(members, current, over=not self.config.search.parents)
        record.update(self.place, current, exported=True)  # table and points/ agree again
        page.write(self.config.out)
        self.say(f"stopped; the same command goes on from {self.study.finished} finished trials")

    def introduce(self) -> None:
        """Say what is searched, and with what."""
        val, test = self.record["base_score_val"], self.record["base_score_test"]
        metric = self.base.metric
        for line in self.base.notes:
            self.say(line)
        self.say(
            f"base model: {self.record['base_macs'] / 1e6:.2f} M MACs, "
            f"{self.record['base_params']:,} parameters, {metric.name} val {metric.show(val)}, "
            f"test {metric.show(test)}"
        )
        if found := self.record["base"].get("latency"):
            self.say(
                f"latency: the base model takes {found['measured_ms']:.3g} ms (predicted "
                f"{found['predicted_ms']:.3g}) for a batch of {found['batch']} with "
                f"{found['runtime']}"
            )
        if not self.study.finished and (asked := base_model.question(self.config)):
            self.say(asked)
        far = 0.03 if metric.fraction else 0.1 * abs(test)
        given = self.config.model.weights is not None or self.config.model.name.startswith("user:")
        if given and metric.gain(val) > metric.gain(test) + far:
            self.say("val is far better than test: the base model has seen val, so val flatters")
        if self.study.finished:
            self.say(f"going on after {self.study.finished} finished trials")
        share = self.share
        device = f"{share.gpus:g} GPU" if share.gpus else f"{share.cpus:g} CPU"
        self.say(f"{share.slots} trials at a time, each with {device}")

    def _export(
        self, members: Sequence[Member], current: Mapping[str, Any], over: bool = True
    ) -> None:
        """over: nothing will begin with the trials' weights any more."""
        points.export(self.config.out, members, self.study.rows, dict(current))
        if self.config.search.keep_checkpoints == "frontier" and over:
            points.forget_checkpoints(
                self.config.out, self.study.rows, self.base.metric, self.study.axis
            )
        self.study.ledger.compact(self.base.metric)  # names the weights that are kept


def earlier(config: Config) -> dict[str, Any] | None:
    """run.json of an earlier session; None for a new run.

    UserError where what is there is no run or another one, or where nothing can be written.
    """
    place = storage.open_uri(config.out)
    before = results.find_record(place)
    if before is None:
        record.check_free(place)
    else:
        record.check(before, config)
    record.check_warm_start(config)
    storage.check_writable(place)
    if config.resources.storage_path is not None:
        storage.check_writable(storage.open_uri(config.resources.storage_path))
    return before


def check_same(
    before: Mapping[str, Any], config: Config, base: BaseModel, problem: Problem
) -> None:
    """UserError where the run was begun with another network or other images."""
    record.check_data(before, base.data, config)
    record.check_base(before, base_model.facts(base, problem), config)


def begin(
    config: Config,
    before: Mapping[str, Any] | None,
    base: BaseModel,
    problem: Problem,
) -> dict[str, Any]:
    """Write run.json, and the base model of a new run; returns the record."""
    place = storage.open_uri(config.out)
    if before is None and results.find_record(place) is not None:
        raise UserError(f"another process has begun {config.out}; give the command once more")
    current = before or record.create(
        config, base_model.facts(base, problem), base.metric, base.axis(config.search)
    )
    plain = configuration.to_dict(config)
    current = record.update(place, current, status="running", config=plain)
    if not storage.exists(place / base_model.FILE):
        base_model.store(base, config.out)
    return current


def _failures(rows: Sequence[Row]) -> list[str]:
    """What most of the failed trials died of, and how to run them again."""
    failures = Counter(row.reason for row in rows if row.status == "failed")
    count = failures.total()
    trials = "1 trial" if count == 1 else f"{count} trials"
    return [
        f"{trials} failed{', mostly' if len(failures) > 1 else ''}: {reason}; once that is "
        "mended, the same command with --search.retry_failed true runs what failed again"
        for reason, _ in failures.most_common(1)
    ]
