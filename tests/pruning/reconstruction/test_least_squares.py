"""Compensation against ordinary least squares, and the greedy order against exact residuals."""

from __future__ import annotations

import numpy as np
import torch

from pruning.reconstruction.least_squares import (
    Moments,
    Reader,
    compensate,
    greedy_order,
    regress,
    residual,
)


def _data(rows: int = 400, columns: int = 12, outputs: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    mixing = torch.randn(columns, columns, **draw)
    x = torch.randn(rows, columns, **draw) @ mixing + 3
    return x, torch.randn(outputs, columns, **draw), torch.randn(outputs, **draw)


def _least_squares(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with_one = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    solution = torch.linalg.lstsq(with_one, y).solution
    return solution[:-1].T, solution[-1]


def _moments(x: torch.Tensor, y: torch.Tensor) -> Moments:
    mx, my = x.mean(0), y.mean(0)
    a, b = x - mx, y - my
    n = len(x)
    return Moments(n, mx, my, a.T @ a / n, b.T @ a / n, b.square().mean(0))


def test_compensation_is_least_squares_with_intercept() -> None:
    x, weight, bias = _data()
    kept = torch.tensor([0, 2, 3, 7, 11])
    moments = _moments(x, x @ weight.T + bias)
    slim, shift = compensate(weight, bias, moments.mean_x, moments.xx, kept, ridge=0)
    expected, intercept = _least_squares(x[:, kept], x @ weight.T + bias)
    torch.testing.assert_close(slim, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(shift, intercept, rtol=1e-8, atol=1e-8)


def test_regression_is_least_squares_whatever_the_prior() -> None:
    x, weight, bias = _data()
    y = torch.sin(x @ weight.T) + bias
    expected, intercept = _least_squares(x, y)
    for prior in (None, weight):
        slim, shift = regress(_moments(x, y), prior, ridge=0)
        torch.testing.assert_close(slim, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(shift, intercept, rtol=1e-8, atol=1e-8)


def test_a_heavy_ridge_returns_the_prior() -> None:
    x, weight, _ = _data()
    slim, shift = regress(_moments(x, torch.sin(x @ weight.T)), weight, ridge=1e12)
    torch.testing.assert_close(slim, weight)
    mean = torch.sin(x @ weight.T).mean(0)
    torch.testing.assert_close(shift + weight @ x.mean(0), mean)


def test_blocks_are_regressed_one_by_one() -> None:
    x, weight, _ = _data(columns=12)
    parts = x.view(-1, 3, 4).transpose(0, 1)
    y = torch.tanh(parts @ weight[:, :4].T)
    each = [_moments(a, b) for a, b in zip(parts, y, strict=True)]
    columns = zip(*map(_tensors, each), strict=True)
    stacked = Moments(each[0].count, *(torch.stack(t) for t in columns))
    together = regress(stacked, ridge=0)
    for i, one in enumerate(each):
        alone = regress(one, ridge=0)
        torch.testing.assert_close(together[0][i], alone[0])
        torch.testing.assert_close(together[1][i], alone[1])


def _tensors(m: Moments) -> tuple[torch.Tensor, ...]:
    return m.mean_x, m.mean_y, m.xx, m.xy, m.yy


def _reader(x: torch.Tensor, weight: torch.Tensor, unit: np.ndarray) -> Reader:
    sigma = torch.cov(x.T, correction=0)
    return Reader(sigma, weight @ sigma, unit)


def test_each_gain_is_the_exact_drop_of_the_residual() -> None:
    x, weight, _ = _data(columns=12)
    unit = np.tile(np.arange(4), 3)  # three taps of four channels, the channel fastest
    sigma = torch.cov(x.T, correction=0)
    order, gains = greedy_order([_reader(x, weight, unit)], 4, ridge=0)
    assert sorted(order) == [0, 1, 2, 3]
    before = float((weight @ sigma * weight).sum())
    for i in range(4):
        kept = torch.from_numpy(np.flatnonzero(np.isin(unit, order[: i + 1])))
        after = residual(weight, sigma, kept, ridge=0)
        np.testing.assert_allclose(gains[i], before - after, rtol=1e-8, atol=1e-8 * gains[0])
        before = after
        if i == 0:  # and no other first choice would have explained more
            rest = [np.flatnonzero(unit == u) for u in range(4)]
            assert after <= 1e-9 + min(
                residual(weight, sigma, torch.from_numpy(c), ridge=0) for c in rest
            )


def test_several_readers_add_their_gains_and_other_columns_count_as_kept() -> None:
    x, weight, _ = _data(columns=12)
    unit = np.concatenate([np.arange(6), np.full(6, -1)])
    readers = [_reader(x, weight, unit), _reader(x.flip(1), 2 * weight, unit)]
    order, gains = greedy_order(readers, 6, ridge=0)
    before = after = 0.0
    for reader, w in zip(readers, (weight, 2 * weight), strict=True):
        others = np.arange(6, 12)
        one = np.concatenate([others, order[:1]])
        before += residual(w, reader.sigma, torch.from_numpy(others), ridge=0)
        after += residual(w, reader.sigma, torch.from_numpy(one), ridge=0)
    np.testing.assert_allclose(gains[0], before - after, rtol=1e-8)


def test_units_without_variance_come_last() -> None:
    x, weight, _ = _data(columns=12)
    x[:, 0] = 5.0
    x[:, 4] = 0.0
    weight[:, [0, 4]] = 100.0
    weight[:, [2, 3]] = 0.0  # of no use either, but they vary
    reader = _reader(x - x.mean(0), weight, np.arange(12))
    order, gains = greedy_order([reader], 12)
    assert set(order[-2:]) == {0, 4}
    assert (gains[-2:] == 0).all()
