"""Closed-form compensation: least squares from the channels that stay, and the order it suggests.

After "Pruning with compensation" (arXiv 2108.13728), whose released code this follows; the ridge
and the pull towards given weights are ours. Everything is float64 and takes leading batch
dimensions, which grouped convolutions use: one regression per block of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruning.reconstruction.moments import Moments

RIDGE = 1e-6  # of the mean variance of an input
SPENT = 1e-4  # of what is explained: no allocation turns on less


@dataclass(frozen=True)
class Reader:
    """A layer that reads the units to be ordered.

    sigma: float64 [d, d], covariance of its patches; cross: float64 [c, d], covariance of its
    target with them (W Σ for the layer's own output); unit: int64 [d], the unit that each column
    belongs to, −1 where it is none of those ordered (such columns count as kept).
    """

    sigma: Tensor
    cross: Tensor
    unit: np.ndarray


def regress(
    moments: Moments,
    prior: Tensor | None = None,
    ridge: float = RIDGE,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """W [..., c, d] and b [..., c] that minimise E|y − Wx − b|²: least squares with intercept.

    The ridge (times the mean variance of x) pulls towards `prior` [..., c, d], else to zero.
    factor: `factorise(moments.xx, ridge)` where it is at hand already.
    """
    factor = factorise(moments.xx, ridge) if factor is None else factor
    if prior is None:
        weight = torch.cholesky_solve(moments.xy.mT, factor).mT
    else:
        left = moments.xy - prior @ moments.xx
        weight = prior + torch.cholesky_solve(left.mT, factor).mT
    bias = moments.mean_y - (weight @ moments.mean_x.unsqueeze(-1)).squeeze(-1)
    return weight, bias


def compensate(
    weight: Tensor, bias: Tensor, mean: Tensor, sigma: Tensor, kept: Tensor, ridge: float = RIDGE
) -> tuple[Tensor, Tensor]:
    """W' = W Σ_{:,s} Σ_ss⁻¹ and b' = b + Wμ − W'μ_s for the kept columns s.

    weight [c, d], bias [c], mean [d], sigma [d, d], kept: int64 [k] → W' [c, k], b' [c].
    """
    rows = (weight @ sigma)[:, kept]
    factor = factorise(sigma[kept][:, kept], ridge)
    slim = torch.cholesky_solve(rows.T, factor).T
    return slim, bias + weight @ mean - slim @ mean[kept]


def residual(weight: Tensor, sigma: Tensor, kept: Tensor, ridge: float = RIDGE) -> float:
    """Output variance that the kept columns cannot explain: tr(WΣWᵀ) − tr(Bᵀ Σ_ss⁻¹ B)."""
    rows = (weight @ sigma)[:, kept]
    factor = factorise(sigma[kept][:, kept], ridge)
    explained = (rows.T * torch.cholesky_solve(rows.T, factor)).sum()
    return float((weight @ sigma * weight).sum() - explained)


def greedy_order(
    readers: Sequence[Reader], units: int, ridge: float = RIDGE
) -> tuple[np.ndarray, np.ndarray]:
    """Order in which units explain most of what their readers compute, and each one's gain.

    Returns order: int64 [units], best first, and gains: float64 [units] in that order; a gain is
    the exact drop of the readers' summed residual. Units without variance come last. Every unit
    owns equally many columns of a reader. Where all that is left explains nothing any more, fewer
    images than columns being seen, the rest comes in the order of what each would explain alone.
    """
    problems = [_Greedy(reader, units, ridge) for reader in readers]
    alive = np.zeros(units, dtype=bool)
    for problem in problems:
        alive |= problem.alive.cpu().numpy()
    left = np.ones(units, dtype=bool)
    order, gains = np.empty(units, dtype=np.int64), np.empty(units)
    for i in range(units):
        gain = np.zeros(units)
        for problem in problems:
            gain += problem.gains().cpu().numpy()
        # a dead unit must not win a tie of rounding errors
        rank = np.where(left, np.where(alive, gain, -1.0), -np.inf)
        best = int(rank.argmax())
        if i and rank[left].clip(0).sum() < SPENT * gains[:i].sum():
            order[i:] = np.argsort(-rank, kind="stable")[: units - i]
            gains[i:] = rank[order[i:]].clip(0)
            break
        order[i], gains[i] = best, gain[best] if alive[best] else 0.0
        left[best] = False
        for problem in problems:
            problem.add(best)
    return order, gains


class _Greedy:
    """One reader's Schur complements C = Σ_tt − Σ_tsΣ_ss⁻¹Σ_st and R = B_t − B_sΣ_ss⁻¹Σ_st.

    Of C only the blocks of single units are kept: a unit's rows are made when it is chosen, from
    Σ and the rows of the Cholesky factor so far (left-looking). Units that were chosen are left
    out of all arrays from time to time. So an order costs a sixth of what updating C would.
    """

    def __init__(self, reader: Reader, units: int, ridge: float) -> None:
        own = np.flatnonzero(reader.unit >= 0)
        by_unit = own[np.argsort(reader.unit[own], kind="stable")]
        columns = torch.from_numpy(by_unit).to(reader.sigma.device)
        sigma, cross = reader.sigma.double(), reader.cross.double()
        load = _load(sigma, ridge)
        variance = sigma.diagonal()[columns].view(units, -1)
        self.alive = (variance > 0).any(1)
        # the ridge bounds pivots from below; rounding must not take them to zero
        self.least = float(0.1 * ridge * variance.mean()) + torch.finfo(torch.float32).tiny
        others = torch.from_numpy(np.flatnonzero(reader.unit < 0)).to(sigma.device)
        c, r = _part(sigma, columns, columns), cross[:, columns]
        c.diagonal().add_(load)
        if len(others):
            rest = _part(sigma, others, others)
            rest.diagonal().add_(load)
            known = torch.cholesky_solve(_part(sigma, others, columns), _cholesky(rest))
            c -= _part(sigma, columns, others) @ known
            r = r - cross[:, others] @ known
        m = self.m = len(columns) // units
        self.units = units
        self.here = torch.arange(units, device=c.device)  # the units that the arrays hold
        self.place = self.here.tolist()  # where in them a unit is
        self.left = torch.ones(units, dtype=torch.bool, device=c.device)
        self.c = c  # Σ, never changed
        self.blocks = c.view(units, m, units, m)[self.here, :, self.here, :]  # C_tt: [here, m, m]
        self.r = r.T.contiguous()  # [here · m, c]
        rows = self.r.view(units, m, -1)
        self.g = rows @ rows.mT  # R_t R_tᵀ: [here, m, m]
        self.factor = c.new_empty(0, len(c))  # rows of the chosen units' factor, and room for more
        self.rows = 0

    def gains(self) -> Tensor:
        """tr(R_t C_t⁻¹ R_tᵀ) of every unit t that is left, 0 for the others; [units]."""
        out = self.r.new_zeros(self.units)
        if self.m == 1:  # the same, much quicker
            pivots = self.blocks.view(-1).clamp_min(self.least)
            out[self.here] = self.r.square().sum(1) / pivots * self.left
            return out
        one = torch.eye(self.m, dtype=self.r.dtype, device=self.r.device)
        blocks = torch.where(self.left.view(-1, 1, 1), self.blocks, one)
        solved = torch.cholesky_solve(self.g, _cholesky(blocks))
        out[self.here] = solved.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0) * self.left
        return out

    def add(self, unit: int) -> None:
        m, place = self.m, self.place[unit]
        own = slice(place * m, place * m + m)
        done = self.factor[: self.rows]
        row = torch.addmm(self.c[own], done[:, own].T, done, alpha=-1)
        factor = _cholesky(self.blocks[place])
        row = torch.linalg.solve_triangular(factor, row, upper=False)
        seen = torch.linalg.solve_triangular(factor, self.r[own], upper=False)
        parts = row.view(m, -1, m).permute(1, 2, 0)  # row_tᵀ
        if m > 1:  # R' = R − rowᵀ seen, put into R'R'ᵀ
            both = (self.r @ seen.T).view(-1, m, m) @ parts.mT
            self.g += parts @ (seen @ seen.T) @ parts.mT - both - both.mT
        self.r.addmm_(row.T, seen, alpha=-1)
        self.blocks.baddbmm_(parts, parts.mT, alpha=-1)
        self._keep(row)
        self.left[place] = False
        if 4 * int(self.left.sum()) < 3 * len(self.left):
            self._compact()

    def _keep(self, row: Tensor) -> None:
        if self.rows + len(row) > len(self.factor):
            larger = row.new_empty(2 * self.rows + 8 * len(row), row.shape[1])
            larger[: self.rows] = self.factor[: self.rows]
            self.factor = larger
        self.factor[self.rows : self.rows + len(row)] = row
        self.rows += len(row)

    def _compact(self) -> None:
        """Leave out the units that were chosen."""
        index = self.left.nonzero().squeeze(1)
        inside = torch.arange(self.m, device=index.device)
        columns = (index.unsqueeze(1) * self.m + inside).view(-1)
        self.c = _part(self.c, columns, columns)
        self.r, self.g, self.blocks = self.r[columns], self.g[index], self.blocks[index]
        self.factor = self.factor[: self.rows, columns]
        self.here, self.left = self.here[index], self.left[index]
        for place, unit in enumerate(self.here.tolist()):
            self.place[unit] = place


def _part(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """matrix[rows][:, columns] in one copy; Σ has millions of elements."""
    return matrix[rows.unsqueeze(1), columns]


def _load(sigma: Tensor, ridge: float) -> Tensor:
    """`ridge` of the mean diagonal of Σ [..., d, d], above zero; [...]."""
    mean = sigma.diagonal(dim1=-2, dim2=-1).mean(-1)
    return (ridge * mean).clamp_min(torch.finfo(sigma.dtype).tiny ** 0.5)


def _ridged(sigma: Tensor, ridge: float) -> Tensor:
    """Σ with `ridge` of its mean diagonal added, never singular."""
    loaded = sigma.clone()
    loaded.diagonal(dim1=-2, dim2=-1).add_(_load(sigma, ridge).unsqueeze(-1))
    return loaded


def factorise(sigma: Tensor, ridge: float = RIDGE) -> Tensor:
    """Lower Cholesky factor of Σ [..., d, d] with `ridge` times its mean diagonal added."""
    return _cholesky(_ridged(sigma.double(), ridge))


def _cholesky(matrix: Tensor) -> Tensor:
    """Cholesky factor; where rounding made a matrix indefinite, with more on its diagonal."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    load = 1e-12
    while bool(failed.any()) and load < 1:
        factor, failed = torch.linalg.cholesky_ex(_ridged(matrix, load))
        load *= 100
    return factor
