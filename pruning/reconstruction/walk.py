"""One pass of the whole and the cut network in step, which refits the cut one as it goes.

A table says what is done at an operation; what a layer becomes is known only once it is seen where
its output goes: into a BN, a sum, an activation that clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.graph import ChannelGraph
from pruning.reconstruction.lockstep import (
    LAYERS,
    TRANSPOSED,
    Known,
    Pair,
    Pending,
    add_up,
    both,
    changes_input,
    clipping,
    filter_of,
    layer_arguments,
    make_pair,
    pairs_in,
)
from pruning.reconstruction.refit import Settings, Term, folded, refit
from pruning.reconstruction.shelf import Kept, Shelf
from pruning.training import Spread, moved

SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "stochastic_depth"}
QUERIES = {
    *("size", "dim", "ndimension", "numel", "nelement", "element_size", "stride", "__len__"),
    *("is_floating_point", "is_complex", "is_contiguous", "get_device", "__get__"),
}

Answer = Any  # a pair or what the code asked for; None: this handler has no rule for the call
Handler = Callable[["Walk", Callable[..., Any], Any, Any], Answer]


@dataclass
class Walk:
    """One pass of both networks; `call` stands in for every torch function."""

    tensors: Mapping[str, Tensor]  # of the whole network
    module: nn.Module  # the cut one
    graph: ChannelGraph
    kept: np.ndarray
    feedback: bool
    settings: Settings
    norms: Mapping[str, str]  # by weight name the BN that is all that reads the layer's output
    shelf: Shelf  # holds what both networks compute
    tell: Callable[[str, int, int], None]
    done: set[str] = field(default_factory=set)
    refitted: dict[nn.Module, bool] = field(default_factory=dict)  # BNs: whether inputs are cut

    def __post_init__(self) -> None:
        self.layers = {layer.weight: layer for layer in self.graph.layers}

    def call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        handler = HANDLERS.get(name)
        result = handler(self, func, args, kwargs) if handler else None
        if result is None:
            result = self.apply(func, args, kwargs)
        if name not in QUERIES and changes_input(name, kwargs) and isinstance(args[0], Pair):
            if result is not args[0]:
                args[0].become(result)
            return args[0]
        return result

    def apply(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The operation on both networks' tensors, once they are known."""
        name = getattr(func, "__name__", "")
        low, high = clipping(name, args, kwargs)
        # nobody else holds what was computed just now
        fresh = isinstance(args[0], Pair) and isinstance(args[0].state, Pending)
        for pair in pairs_in((args, kwargs)):
            self.force(pair, low, high)
        if fresh and (low, high) != (None, None) and changes_input(name, kwargs):
            for side in {id(side): side for side in (args[0].whole, args[0].slim)}.values():
                assert isinstance(side, Kept)
                side.update(lambda x: x.clamp_(low, high))
            return args[0]
        return both(self, func, args, kwargs)

    def query(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Answer:
        """Shapes and the like: the whole network's."""
        with torch._C.DisableTorchFunctionSubclass():
            answer = func(*args, **kwargs)
        if isinstance(answer, torch.device):
            return args[0].whole[0].device
        return self.apply(func, args, kwargs) if isinstance(answer, Tensor) else answer

    def passed(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Answer:
        """Dropout: nothing, in evaluation mode."""
        return args[0]

    def layer(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Answer:
        """A layer's output; the cut side waits until it is known what it is added to."""
        call = layer_arguments(args, kwargs)
        input, weight = call["input"], call["weight"]
        if not isinstance(input, Pair) or not isinstance(weight, Pair) or weight.label is None:
            return None
        name = weight.label
        if name not in self.layers or name in self.done:
            return None
        how = filter_of(func, args, kwargs)
        if how is None:
            return None
        self.force(input)
        self.done.add(name)
        self.tell("repair: layers", len(self.layers.keys() & self.done), len(self.layers))
        first, layer = input.whole[0], self.layers[name]
        path, norm = name.rpartition(".")[0], self._norm_of(name)
        value, shift = folded(self._plain(path), how, self._plain(norm) if norm else None)
        whole = self.shelf.keep(how.apply(x, value, shift) for x in input.whole)
        inputs = input.slim
        if not self.feedback and how.groups == 1:
            columns = self._positions(name, layer.read, first.device)
            inputs = self.shelf.keep(x.index_select(how.channel_dim, columns) for x in input.whole)
        groups = inputs[0].shape[1] // weight.slim[0].shape[1] if how.groups > 1 else 1
        term = Term(
            module=self.module.get_submodule(path),
            how=replace(how, groups=groups),
            inputs=inputs,
            target=whole,
            rows=self._positions(name, layer.written, first.device),
            exact=input.exact,
            norm=self.module.get_submodule(norm) if norm else None,
        )
        exact = input.exact and weight.slim[0].shape == weight.whole[0].shape
        return make_pair(self, whole, Pending((term,)), exact=exact)

    def norm(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Answer:
        """BN of a layer's output: a part of that layer, and where its intercept goes."""
        input = kwargs.get("input", args[0] if args else None)
        named = {a.label.rpartition(".")[2]: a for a in pairs_in((args, kwargs)) if a.label}
        mean, var = named.get("running_mean"), named.get("running_var")
        if not isinstance(input, Pair) or mean is None or var is None:
            return None
        path = str(mean.label).rpartition(".")[0]
        if path in self.done:
            return None
        self.done.add(path)
        state = input.state
        if isinstance(state, Pending) and state.terms[0].norm is self.module.get_submodule(path):
            return make_pair(self, input.whole, state, exact=input.exact)
        self.measure(input, mean, var)
        return None

    def _norm_of(self, name: str) -> str | None:
        """Path of the BN that is a part of the layer: all that reads it, with scale and shift."""
        path = self.norms.get(name)
        if path is None or not hasattr(self.module.get_submodule(path), "eps"):
            return None
        norm = self._plain(path)
        return path if norm.weight is not None and norm.bias is not None else None

    def _plain(self, path: str) -> Any:
        """The whole network's tensors of one module; in its modules there are pairs now."""
        names = ("weight", "bias", "running_mean", "running_var")
        found = {name: self.tensors.get(f"{path}.{name}" if path else name) for name in names}
        eps = getattr(self.module.get_submodule(path), "eps", 0.0)
        return SimpleNamespace(**found, eps=eps)

    def measure(self, input: Pair, mean: Pair, var: Pair) -> None:
        """Statistics for a BN after a sum, a concat or an output read twice: moved by the cut."""
        self.force(input)
        if input.exact:
            return
        rows = None
        if (str(mean.label), 0) in self.graph.axes:
            rows = self._positions(str(mean.label), 0, mean.whole[0].device)
        base = Spread(mean.whole[0], var.whole[0]).rows(rows)
        new = moved(base, Spread.over(input.whole).rows(rows), Spread.over(input.slim))
        mean.slim[0].copy_(new.mean)
        var.slim[0].copy_(new.var)

    def sum(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Answer:
        """a + b where one of them waits: the sum waits with it."""
        a, b = args if len(args) == 2 and not kwargs and self.feedback else (None, None)
        if not (isinstance(a, Pair) and isinstance(b, Pair)) or a.shape != b.shape:
            return None
        pending = [p.state for p in (a, b) if isinstance(p.state, Pending)]
        terms = tuple(term for state in pending for term in state.terms)
        if not terms or any(term.solved for term in terms):
            return None
        known = [p.slim for p in (a, b) if isinstance(p.state, Known)]
        known += [state.rest for state in pending if state.rest]
        whole = self.shelf.keep(x + y for x, y in zip(a.whole, b.whole, strict=True))
        state = Pending(terms, self.total(known))
        return make_pair(self, whole, state, exact=a.exact and b.exact)

    def force(self, pair: Pair, low: float | None = None, high: float | None = None) -> None:
        """Refit the layers that `pair` waits for, then compute its cut side."""
        state = pair.state
        if isinstance(state, Known):
            return
        terms, rest = state.terms, [state.rest] if state.rest else []
        if pair.exact:
            pair.state = Known(pair.whole)
        else:
            known = len(terms) == 1 and terms[0].exact and not rest and self.feedback
            if not known and not any(term.solved for term in terms):
                self.solve(pair, state, low, high)
            parts = zip(*(term.values() for term in terms), *rest, strict=True)
            pair.state = Known(self.shelf.keep(map(add_up, parts)))
        for term in terms:
            term.solved = True

    def solve(self, pair: Pair, state: Pending, low: float | None, high: float | None) -> None:
        """Refit the terms of a sum: jointly, or the later ones first where one is grouped."""
        self.refitted.update((t.norm, not t.exact) for t in state.terms if t.norm is not None)
        (first, *others), rest = state.terms, [state.rest] if state.rest else []
        if any(term.how.groups > 1 for term in state.terms):
            for term in others:
                refit([term], term.target, None, None, None, self.settings, self.shelf)
            rest += [self.shelf.keep(term.values()) for term in others]
            others = []
        known = self.total(rest)
        refit([first, *others], pair.whole, known, low, high, self.settings, self.shelf)

    def total(self, parts: Sequence[Sequence[Tensor]]) -> Sequence[Tensor] | None:
        """Sum of several tensors given in batches."""
        if len(parts) < 2:
            return parts[0] if parts else None
        return self.shelf.keep(map(add_up, zip(*parts, strict=True)))

    def _positions(self, name: str, axis: int, device: torch.device) -> Tensor:
        return torch.from_numpy(self.graph.kept_positions(name, axis, self.kept)).to(device)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(QUERIES, Walk.query),
    **dict.fromkeys(DROPOUTS, Walk.passed),
    **dict.fromkeys(LAYERS | TRANSPOSED, Walk.layer),
    **dict.fromkeys(SUMS, Walk.sum),
    "batch_norm": Walk.norm,
}
"""What the walk does at an operation, by its name; anything else is run on both sides."""
