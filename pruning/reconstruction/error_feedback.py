"""Sequential compensation with error feedback: a closed-form repair of any cut network.

The whole and the cut network run side by side over a few images, operation by operation. Every
convolution and linear layer of the cut one is refitted by least squares, on what the *cut* network
hands it, to what the whole network computes. Where its output is added to a stream, the target
carries the error that the stream has collected so far: each layer undoes what it can of what its
predecessors got wrong. Where a ReLU follows, errors that it hides do not count. Ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruning.data import Batches
from pruning.errors import UserError
from pruning.graph import ChannelGraph, Keep
from pruning.reconstruction.calls import usage
from pruning.reconstruction.compensation import compensate_layers
from pruning.reconstruction.filters import Filter
from pruning.reconstruction.lockstep import (
    Known,
    Pair,
    Pending,
    add_up,
    changes_input,
    clipping,
    make_pair,
    narrowed,
    pairs_in,
    run,
    side_of,
)
from pruning.reconstruction.moments import input_moments
from pruning.reconstruction.refit import Settings, Term, folded, refit
from pruning.training import Spread, evaluation_mode, moved

MOST_PIXELS = 2**24
PART_PIXELS = 2**18
"""Images are walked in parts of about this size: memory for larger tensors is new to the system
each time, which takes longer than what is computed in it."""
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "stochastic_depth"}
QUERIES = {
    *("size", "dim", "ndimension", "numel", "nelement", "element_size", "stride", "__len__"),
    *("is_floating_point", "is_complex", "is_contiguous", "get_device", "__get__"),
}
LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}


@torch.no_grad()
def repair(
    slim: nn.Module,
    whole: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    batches: Batches,
    *,
    feedback: bool = True,
    settings: Settings | None = None,
) -> None:
    """Refit every layer of `slim` = cut(whole, graph, keep), in place, without gradients.

    Some 1,000 images do, 300 of 224x224: all their activations at one depth are held at once, so
    no more than MOST_PIXELS are read. BNs get statistics that fit the cut network. A layer with
    neither BN nor bias gets a bias. A layer that is called more than once is refitted once, on the
    whole network's inputs at all its calls. feedback=False does so with all of them, as CaP does.
    UserError where the network's code cannot be followed.
    """
    images = _images(batches)
    settings = settings or Settings()
    if not feedback:
        settings = replace(settings, rounds=0)
    used = usage(whole, graph, images[0][:2])
    if used.shared:
        moments = input_moments(
            whole, graph, [(x, x) for x in images], settings.positions, used.shared
        )
        compensate_layers(slim, whole, graph, keep, moments, used.norms)
    own = _state(slim)
    kept = graph.kept_units(keep)
    given = _state(whole)
    walk = _Walk(given, slim, graph, kept, feedback, settings, used.norms, set(used.shared))
    tensors: dict[str, Tensor] = {
        name: make_pair(walk, [tensor], Known([own[name]]), label=name)
        for name, tensor in given.items()
    }
    with evaluation_mode(whole), evaluation_mode(slim):
        out = functional_call(whole, tensors, (make_pair(walk, images),))
        for pair in pairs_in(out):
            walk.force(pair)


def _images(batches: Batches) -> list[Tensor]:
    """Parts of one size, up to MOST_PIXELS in all, at least one; a short last batch is left out."""
    images: list[Tensor] = []
    for x, _ in batches:
        pixels = x[0, 0].numel() * len(x)
        if images and (len(images) + 1) * pixels > MOST_PIXELS:
            break
        if not images or len(x) == len(images[0]):
            images.append(x)
    if not images:
        raise UserError("no images to repair with; hand in at least one batch")
    most = max(1, PART_PIXELS // images[0][0, 0].numel())
    size = next(n for n in range(min(most, len(images[0])), 0, -1) if len(images[0]) % n == 0)
    return [part for x in images for part in x.split(size)]


Answer = Any  # a pair or what the code asked for; None: this handler has no rule for the call
Handler = Callable[["_Walk", Callable[..., Any], Any, Any], Answer]


@dataclass
class _Walk:
    """One pass of both networks; `call` stands in for every torch function."""

    tensors: Mapping[str, Tensor]  # of the whole network
    module: nn.Module  # the cut one
    graph: ChannelGraph
    kept: np.ndarray
    feedback: bool
    settings: Settings
    norms: Mapping[str, str]  # by weight name the BN that is all that reads the layer's output
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.layers = {layer.weight for layer in self.graph.layers}

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
            for x in {id(x): x for side in (args[0].whole, args[0].slim) for x in side}.values():
                x.clamp_(low, high)
            return args[0]
        return self.both(func, args, kwargs)

    def query(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Answer:
        """Shapes and the like: the whole network's."""
        with torch._C.DisableTorchFunctionSubclass():
            answer = func(*args, **kwargs)
        if isinstance(answer, torch.device):
            return args[0].whole[0].device
        if not isinstance(answer, Tensor):
            return answer
        self.force(args[0])
        return self.both(func, args, kwargs)

    def passed(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Answer:
        """Dropout: nothing, in evaluation mode."""
        return args[0]

    def layer(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Answer:
        """A layer's output; the cut side waits until it is known what it is added to."""
        call = _named(("input", "weight", "bias"), args, kwargs)
        input, weight = call["input"], call["weight"]
        if not isinstance(input, Pair) or not isinstance(weight, Pair) or weight.label is None:
            return None
        name = weight.label
        if name not in self.layers or name in self.done:
            return None
        self.force(input)
        self.done.add(name)
        first = input.whole[0]
        how = _filter(args, kwargs)
        path = name.rpartition(".")[0]
        norm = self._norm_of(name)
        value, shift = folded(self._plain(path), self._plain(norm) if norm else None)
        whole = [how.apply(x, value, shift) for x in input.whole]
        inputs = input.slim
        if not self.feedback and how.groups == 1:
            columns = self._positions(name, 1, first.device)
            inputs = [x.index_select(how.channel_dim, columns) for x in input.whole]
        groups = inputs[0].shape[1] // weight.slim[0].shape[1] if how.groups > 1 else 1
        term = Term(
            module=self.module.get_submodule(path),
            how=replace(how, groups=groups),
            inputs=inputs,
            target=whole,
            rows=self._positions(name, 0, first.device),
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
        if len(args) != 2 or kwargs or not self.feedback:
            return None
        a, b = args
        if not (isinstance(a, Pair) and isinstance(b, Pair)) or a.shape != b.shape:
            return None
        pending = [p.state for p in (a, b) if isinstance(p.state, Pending)]
        terms = tuple(term for state in pending for term in state.terms)
        if not terms or any(term.solved for term in terms):
            return None
        known = [p.slim for p in (a, b) if isinstance(p.state, Known)]
        known += [state.rest for state in pending if state.rest]
        whole = [x + y for x, y in zip(a.whole, b.whole, strict=True)]
        return make_pair(self, whole, Pending(terms, _total(known)), exact=a.exact and b.exact)

    def both(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The operation on both networks' tensors."""
        pairs = list(pairs_in((args, kwargs)))
        exact = all(pair.exact or pair.slim is pair.whole for pair in pairs)
        whole, slim = [], []
        for i in range(max(len(pair.whole) for pair in pairs)):
            whole.append(run(func, side_of(args, "whole", i), side_of(kwargs, "whole", i)))
            slim.append(whole[-1] if exact else self.narrow(func, args, kwargs, i))
        return self.wrap(whole, slim, exact)

    def narrow(self, func: Callable[..., Any], args: Any, kwargs: Any, i: int) -> Any:
        """The operation on the cut network's tensors, where it may have to know their sizes."""
        own, options = side_of(args, "slim", i), side_of(kwargs, "slim", i)
        name = getattr(func, "__name__", "")
        if name in LAYERS:
            given = _named(("input", "weight", "bias"), own, options)
            return _filter(own, options).apply(given["input"], given["weight"], given.get("bias"))
        if name in {"view", "reshape"} and len(own) > 1:
            own = (own[0], narrowed(own[1:], args[0].whole[0].shape, own[0].shape))
            func = torch.reshape
        try:
            return run(func, own, options)
        except (RuntimeError, IndexError) as error:
            line = str(error).splitlines()[0]
            raise UserError(
                f"cannot follow '{name}' on fewer channels ({line}); use repair none"
            ) from error

    def wrap(self, whole: list[Any], slim: list[Any], exact: bool) -> Any:
        if isinstance(whole[0], Tensor):
            return make_pair(self, whole, None if exact else Known(slim))
        if isinstance(whole[0], (tuple, list)):
            columns = zip(zip(*whole, strict=True), zip(*slim, strict=True), strict=True)
            return type(whole[0])([self.wrap(list(w), list(s), exact) for w, s in columns])
        return whole[0]

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
            made = _total([term.values() for term in terms] + rest)
            assert made is not None
            pair.state = Known(made)
        for term in terms:
            term.solved = True

    def solve(self, pair: Pair, state: Pending, low: float | None, high: float | None) -> None:
        """Refit the terms of a sum: jointly, or the later ones first where one is grouped."""
        first, *others = state.terms
        rest = [state.rest] if state.rest else []
        if any(term.how.groups > 1 for term in state.terms):
            for term in others:
                refit([term], term.target, None, None, None, self.settings)
            rest += [term.values() for term in others]
            others = []
        refit([first, *others], pair.whole, _total(rest), low, high, self.settings)

    def _positions(self, name: str, axis: int, device: torch.device) -> Tensor:
        return torch.from_numpy(self.graph.kept_positions(name, axis, self.kept)).to(device)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(QUERIES, _Walk.query),
    **dict.fromkeys(DROPOUTS, _Walk.passed),
    **dict.fromkeys(LAYERS, _Walk.layer),
    **dict.fromkeys(SUMS, _Walk.sum),
    "batch_norm": _Walk.norm,
}
"""What the walk does at an operation, by its name; anything else is run on both sides."""


def _named(names: Sequence[str], args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by name, however they were passed."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _filter(args: Any, kwargs: Any) -> Filter:
    with torch._C.DisableTorchFunctionSubclass():
        return Filter.of_call(*args, **kwargs)


def _total(parts: Sequence[Sequence[Tensor]]) -> list[Tensor] | None:
    """Sum of several tensors given in batches."""
    return [add_up(tensors) for tensors in zip(*parts, strict=True)] if parts else None


def _state(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}
