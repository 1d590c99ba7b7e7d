"""The study: asks for candidates worth running, is told how they ended, rebuilt from the ledger.

The ledger is the one truth: a row for each trial that ended, infeasible ones included, and each
architecture once.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from optuna.trial import FrozenTrial

from pruning.graph import Cost, Lattice
from search.pareto import CostAxis, Patience, front
from search.storage import Ledger, Outcome, Row, arch_hash, files, trial_id
from search.study import samplers
from search.study.candidate import Candidate, Proposal, Seed, StudyOptions
from search.study.ehvi import TRIAL_ID, WARM
from search.study.lineage import Lineage
from search.study.proposer import Proposer
from search.study.width_space import RATIO, Params, Space

MUTANTS = 256  # of the frontier, tried where the sampler finds nothing new
INFEASIBLE = 4  # trials that an infeasible one stands for where the range is filled evenly


class Study:
    """Ask for the next candidate, tell how it ended; the ledger has a row for every end."""

    def __init__(
        self,
        space: Space,
        ledger: Ledger,
        cost: Cost,
        lat: Lattice,
        options: StudyOptions | None = None,
    ) -> None:
        """Rebuild the study from the ledger's rows."""
        self.space, self.ledger, self.cost, self.lat = space, ledger, cost, lat
        self.options = options = options or StudyOptions()
        self.limits = options.limits
        self.axis = CostAxis(cost.objective, cost.base)
        self.rows: list[Row] = []
        self.running: dict[str, tuple[Candidate, int]] = {}
        self.proposer = Proposer(space, options, self.axis, len(lat.high))
        self.lineage = Lineage(self.axis)
        self._seeds = deque(options.seeds)
        self._known: set[str] = set()
        for row in options.warm:
            self._replay(row, WARM + row.trial_id)
        self._failed: deque[Row] = deque()
        self.retried: dict[str, Row] = {}  # trials that run again, and how they ended before
        rows, kept = ledger.rows(mend=True), ledger.kept() if options.parents else ()
        for row in rows:
            if options.retry_failed and row.status == "failed":
                self._failed.append(row)
                self._known.add(row.arch_hash)
                continue
            self._replay(row, row.trial_id)
            self._record(row, files.own_path(row.checkpoint) in kept)
        self.next_number = max((row.number for row in rows), default=-1) + 1

    @property
    def finished(self) -> int:
        """Trials that ran and ended, this run's earlier sessions included."""
        return sum(row.status != "infeasible" or row.wall_s > 0 for row in self.rows)

    @property
    def waiting(self) -> int:
        """Failed trials that are still to be run again; the budget has room for them."""
        return len(self._failed)

    def settled(self, patience: Patience | None) -> bool:
        """Whether it has been waited long enough for something better; the seeds come first."""
        if patience is None or not all(self._hash(seed) in self._known for seed in self._seeds):
            return False
        return patience.over(self.rows)

    def over(self, budget: int, patience: Patience | None) -> bool:
        """Whether no trial of the search is left to run."""
        if self.waiting or self.running:
            return False
        return self.finished >= budget or self.settled(patience)

    def ask(self) -> Candidate | None:
        """The next network to run, first what is to run again; None where no new one was found."""
        return self._next_failed() or self._next_seed() or self._sampled() or self._mutated()

    def tell(self, trial: str, outcome: Outcome) -> Row:
        """Write the row of a running trial, then tell Optuna. UserError if it cannot be written."""
        candidate, number = self.running.pop(trial)
        row = candidate.row(outcome, self.cost)
        try:
            self.ledger.write(row, replace=trial in self.retried)
        except BaseException:
            self.proposer.fail(number)
            raise
        self.proposer.finish(number, row)
        self._record(row)
        return row

    def abandon(self, trial: str) -> None:
        """Forget a running trial without a row; it may be proposed again."""
        candidate, number = self.running.pop(trial)
        if trial in self.retried:
            self._failed.append(self.retried[trial])
        else:
            self._known.discard(candidate.arch_hash)
        self.proposer.fail(number)

    def close(self) -> None:
        """Abandon whatever still runs: no Optuna trial stays RUNNING."""
        for trial in list(self.running):
            self.abandon(trial)

    def trial_of(self, row: Row) -> FrozenTrial:
        """The Optuna trial of a ledger row."""
        trials = self.proposer.study.get_trials(deepcopy=False)
        return next(t for t in trials if t.user_attrs.get(TRIAL_ID) == row.trial_id)

    def _next_failed(self) -> Candidate | None:
        if not self._failed:
            return None
        row = self._failed.popleft()
        candidate = Candidate.of_row(row)
        if not self.lineage.has(row.parent):
            candidate = replace(candidate, parent="")
        number = self.proposer.adopt(self.proposer.params_of(row))
        self._mark(number, row.trial_id, row)
        self.running[row.trial_id] = candidate, number
        self.retried[row.trial_id] = row
        return candidate

    def _next_seed(self) -> Candidate | None:
        while self._seeds:
            seed = self._seeds.popleft()
            asked = self.cost.of(np.array(seed.widths))
            proposal = Proposal("seed", seed.method, asked, seed.widths, seed.scalars)
            params = self.space.encode(seed.widths, seed.method)
            candidate = self._candidate(proposal, params, seed.name)
            if self._start(candidate):
                return candidate
        return None

    def _sampled(self) -> Candidate | None:
        for attempt in range(self.options.tries):
            key = self.next_number
            # a sampler that has converged repeats itself: the next try must look elsewhere
            stratified = attempt > 0 or key % self.options.stratify_every == 0
            stratified = stratified and not self.proposer.covers
            fixed = {RATIO: self._sparse_share()} if self.options.strata and stratified else None
            number = self.proposer.propose(key, attempt, fixed)
            params = self.proposer.params(number)
            candidate = self._candidate(self.space.resolve(params), params, "sampler")
            if self._start(candidate, number):
                return candidate
        return None

    def _mutated(self) -> Candidate | None:
        """A few steps away from a member of the frontier."""
        parents = self._frontier() or [
            row for row in self.rows if row.widths and row.status != "infeasible"
        ]
        if not parents:
            return None
        drawn = samplers.mutants(self.lat, parents, self.axis, self._rng(self.options.tries))
        for parent, vector in itertools.islice(drawn, MUTANTS):
            widths = tuple(vector.tolist())
            if max(self._constraints(widths).values(), default=0) > 0:
                continue
            asked = self.cost.of(np.array(widths))
            scalars = parent.proposal.get("scalars", {})
            proposal = Proposal("mutation", parent.method, asked, widths, scalars)
            params = self.space.encode(widths, parent.method)
            candidate = self._candidate(proposal, params, parent.trial_id)
            if self._start(candidate):
                return candidate
        return None

    def _start(self, candidate: Candidate, number: int | None = None) -> bool:
        """Whether the candidate runs now; a known or infeasible one is answered here.

        number: of the Optuna trial that proposed it; None where it has none yet.
        """
        if candidate.arch_hash in self._known:
            if number is not None:
                self.proposer.fail(number)
            return False
        if number is None:
            number = self.proposer.adopt(candidate.params)
        self._mark(number, candidate.trial_id, candidate)
        self.next_number += 1
        self._known.add(candidate.arch_hash)
        self.running[candidate.trial_id] = candidate, number
        constraints = self._constraints(candidate.widths)
        violated = [f"{name} missed by {v:.1%}" for name, v in constraints.items() if v > 0]
        if violated:
            self.tell(candidate.trial_id, Outcome(status="infeasible", reason=", ".join(violated)))
        return not violated

    def _candidate(self, proposal: Proposal, params: Params, source: str) -> Candidate:
        digest = self._hash(proposal)
        name, parent = trial_id(self.next_number, digest), self.lineage.of(proposal)
        return Candidate.of_proposal(name, digest, proposal, params, source, parent)

    def _hash(self, network: Proposal | Seed) -> str:
        recipe = self.options.recipe
        return arch_hash(network.method, network.widths, recipe, network.scalars)

    def _replay(self, row: Row, name: str) -> None:
        number = self.proposer.adopt(self.proposer.params_of(row))
        self._mark(number, name, row)
        self.proposer.finish(number, row)

    def _record(self, row: Row, kept: bool = True) -> None:
        """kept: whether its weights are there."""
        self.rows.append(row)
        self._known.add(row.arch_hash)
        if kept and self.options.parents:
            self.lineage.add(row)

    def _mark(self, number: int, name: str, network: Row | Candidate) -> None:
        widths = network.widths
        self.proposer.mark(number, name, widths, network.method, self._constraints(widths))

    def _constraints(self, widths: Sequence[int] | None) -> dict[str, float]:
        if not widths:
            return {}
        return self.limits.constraints(self.cost, np.array(widths, dtype=np.int64))

    def _frontier(self) -> list[Row]:
        done = [row for row in self.rows if row.status == "complete"]
        return [done[i] for i in front.front(front.points_of(done, self.options.metric, self.axis))]

    def _sparse_share(self) -> float:
        strata = self.options.strata
        assert strata is not None
        ended = [row for row in self.rows if row.status == "complete"]
        # a bin in which nothing is feasible must not draw for ever; without widths there is no time
        ended += [r for r in self.rows if r.status == "infeasible" and r.widths] * INFEASIBLE
        costs = [*map(self.axis.of, ended), *(c.asked for c, _ in self.running.values())]
        return strata.sparse_share(np.array(costs) / self.axis.base, self._rng())

    def _rng(self, *keys: int) -> np.random.Generator:
        return np.random.default_rng(samplers.seed_of(self.options.seed, self.next_number, *keys))
