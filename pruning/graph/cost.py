"""What a slim network costs as closed forms of its width vector: MACs, parameters, ms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import numpy as np

from pruning.graph.channel_graph import ChannelGraph

CHUNK = 512  # rows at a time: keeps the temporaries in the cache


Objective: TypeAlias = Literal["macs", "params", "latency"]
Latency: TypeAlias = Callable[[np.ndarray], Any]
"""W: int [N, groups] → ms float64 [N]; [groups] → a scalar: a `pruning.latency.LatencyTable`."""


class Cost:
    """MACs of layers and products for one image, parameters, and the one that is to be saved.

    The channels that a layer reads and writes are affine in the widths, so every sum of their
    products is one quadratic form W Q Wᵀ + q·W + c. In float64 it is exact below 2^53.
    """

    def __init__(
        self, graph: ChannelGraph, objective: Objective = "macs", latency: Latency | None = None
    ) -> None:
        """objective: what `of` counts. latency: foretells ms, where anything does."""
        self.groups, self.objective, self.latency = len(graph.groups), objective, latency
        self._macs = _Quadratic(_mac_terms(graph), self.groups)
        self._params = _Quadratic(_parameter_terms(graph), self.groups)
        self.base_macs: int = self.macs(graph.widths)
        self.base_params: int = self.params(graph.widths)
        self._of = {"macs": self.macs, "params": self.params, "latency": latency}[objective]
        self.base = self.of(graph.widths)

    def of(self, widths: np.ndarray) -> Any:
        """What is to be saved, W: int [N, groups] → [N]; W: int [groups] → a number.

        MACs and parameters are int64, latencies ms in float64.
        """
        if self._of is None:
            raise ValueError("latency is the objective, and nothing foretells it")
        return self._of(widths)

    def budget(self, share: float) -> float:
        """So much of what the whole network costs; counts are whole."""
        asked = share * self.base
        return asked if self.objective == "latency" else round(asked)

    @property
    def least(self) -> float:
        """A cost that is as good as none, in the unit of `of`."""
        return 1e-9 * self.base if self.objective == "latency" else 1

    def macs(self, widths: np.ndarray) -> Any:
        """W: int [N, groups] → int64 [N]; W: int [groups] → int."""
        return self._macs(widths)

    def params(self, widths: np.ndarray) -> Any:
        """W: int [N, groups] → int64 [N]; W: int [groups] → int. Parameters, not buffers."""
        return self._params(widths)

    def macs_gradient(self, widths: np.ndarray) -> np.ndarray:
        """MACs that one further channel of each group costs at W: float64 [groups]."""
        return self._macs.gradient(widths)

    def params_gradient(self, widths: np.ndarray) -> np.ndarray:
        """Parameters that one further channel of each group costs at W: float64 [groups]."""
        return self._params.gradient(widths)


Affine = tuple[np.ndarray, int]  # channels along one axis: (coefficients [groups], constant)
Term = tuple[float, Affine, Affine]  # factor × rows × columns


class _Quadratic:
    def __init__(self, terms: Iterable[Term], groups: int) -> None:
        q = np.zeros((groups, groups))
        linear, constant = np.zeros(groups), 0.0
        for factor, (a, a0), (b, b0) in terms:
            q += factor * np.outer(a, b)
            linear += factor * (a0 * b + b0 * a)
            constant += factor * a0 * b0
        self.symmetric = (q + q.T) / 2
        self.linear, self.constant = linear, constant

    def __call__(self, widths: np.ndarray) -> Any:
        rows = np.atleast_2d(widths)
        out = np.empty(len(rows), dtype=np.int64)
        for start in range(0, len(rows), CHUNK):
            w = rows[start : start + CHUNK].astype(np.float64)
            inner = w @ self.symmetric
            inner += self.linear
            out[start : start + CHUNK] = np.einsum("ng,ng->n", inner, w) + (self.constant + 0.5)
        return int(out[0]) if np.ndim(widths) == 1 else out

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        return 2 * self.symmetric @ np.asarray(widths, dtype=np.float64) + self.linear


def _mac_terms(graph: ChannelGraph) -> Iterable[Term]:
    one: Affine = (np.zeros(len(graph.groups)), 1)
    for product in graph.products:
        sides = [_channels(graph, units) for units in product.sides]
        first, second = (*sides, one, one)[:2]
        yield product.macs / math.prod(len(units) for units in product.sides), first, second
    for layer in graph.layers:
        # axis 1 of a grouped convolution's weight is already "input channels per block"
        rows, columns = (channel_counts(graph, layer.weight, axis) for axis in (0, 1))
        yield layer.kernel * layer.positions, rows, columns


def _parameter_terms(graph: ChannelGraph) -> Iterable[Term]:
    for name, shape in graph.shapes.items():
        if name in graph.parameters:
            cut = [axis for axis in range(len(shape)) if (name, axis) in graph.axes]
            rest = [n for axis, n in enumerate(shape) if axis not in cut]
            sides = [channel_counts(graph, name, axis) for axis in cut]
            one: Affine = (np.zeros(len(graph.groups)), 1)
            first, second = (*sides, one, one)[:2]
            yield int(np.prod(rest, dtype=np.int64)), first, second


def channel_counts(graph: ChannelGraph, tensor: str, axis: int) -> Affine:
    """Channels along an axis = coefficients [groups] · W + constant."""
    return _channels(graph, graph.axes[tensor, axis])


def _channels(graph: ChannelGraph, units: np.ndarray) -> Affine:
    counts = np.bincount(units, minlength=graph.units + 1)
    per_unit = counts[graph.offsets[:-1]] if graph.groups else np.zeros(0)
    return per_unit / np.maximum(graph.granularity, 1), int(counts[-1])
