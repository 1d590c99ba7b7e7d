"""Sequential compensation with error feedback: a closed-form repair of any cut network.

The whole and the cut network run side by side over a few images, operation by operation. Every
convolution and linear layer of the cut one is refitted by least squares, on what the *cut* network
hands it, to what the whole network computes. Where its output is added to a stream, the target
carries the error that the stream has collected so far: each layer undoes what it can of what its
predecessors got wrong. Where a ReLU follows, errors that it hides do not count. Ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from pruning.data import Batches
from pruning.errors import UserError
from pruning.graph import ChannelGraph, Keep
from pruning.reconstruction.covariance import LAYER_CALLS, Filter
from pruning.reconstruction.lockstep import (
    IN_PLACE,
    Pair,
    add_up,
    clipping,
    make_pair,
    narrowed,
    pairs_in,
    run,
    side_of,
)
from pruning.reconstruction.mean_folding import norms_after
from pruning.reconstruction.refit import Settings, Term, refit
from pruning.training import Spread, evaluation_mode, moved

MOST_PIXELS = 2**24
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "stochastic_depth"}
QUERIES = {
    *("size", "dim", "ndimension", "numel", "nelement", "element_size", "stride", "__len__"),
    *("is_floating_point", "is_complex", "is_contiguous", "get_device"),
}


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
    no more than MOST_PIXELS are read. Hand in batches of 100 to 250. BNs get the statistics of the
    cut network. A layer with neither BN nor bias gets a bias. feedback=False refits each layer on
    the whole network's inputs to its own output, as CaP does. UserError where the network's code
    cannot be followed.
    """
    images = _images(batches)
    settings = settings or Settings()
    if not feedback:
        settings = replace(settings, rounds=0)
    own = _state(slim)
    alone = set(norms_after(whole, graph, images[0][:2]).values())
    walk = _Walk(slim, graph, graph.kept_units(keep), feedback, settings, alone)
    tensors: dict[str, Tensor] = {
        name: make_pair(walk, [tensor], [own[name]], label=name)
        for name, tensor in _state(whole).items()
    }
    with evaluation_mode(whole), evaluation_mode(slim):
        out = functional_call(whole, tensors, (make_pair(walk, images, None, exact=True),))
        for pair in pairs_in(out):
            walk.force(pair)


def _images(batches: Batches) -> list[Tensor]:
    """Batches of one size, up to MOST_PIXELS in all, at least one; a short last one is left out."""
    images: list[Tensor] = []
    for x, _ in batches:
        pixels = x.shape[-2] * x.shape[-1] * len(x)
        if images and (len(images) + 1) * pixels > MOST_PIXELS:
            break
        if not images or len(x) == len(images[0]):
            images.append(x)
    if not images:
        raise UserError("no images to repair with; hand in at least one batch")
    return images


@dataclass
class _Walk:
    """One pass of both networks; `call` stands in for every torch function."""

    module: nn.Module
    graph: ChannelGraph
    kept: np.ndarray
    feedback: bool
    settings: Settings
    alone: Collection[str]  # BNs that are all that reads their layers' outputs
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.layers = {layer.weight for layer in self.graph.layers}

    def call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__" or name in QUERIES:
            return self.query(func, args, kwargs)
        if name in DROPOUTS:
            return args[0]
        if func in LAYER_CALLS and (term := self.layer(*args, **kwargs)) is not None:
            return term
        if name == "batch_norm":
            if (normed := self.norm(*args, **kwargs)) is not None:
                return normed
            self.measure(*args, **kwargs)
        result = self.sum(*args) if name in SUMS and len(args) == 2 and not kwargs else None
        if result is None:
            low, high = clipping(name, args, kwargs)
            for pair in pairs_in((args, kwargs)):
                self.force(pair, low, high)
            result = self.both(func, args, kwargs)
        changes = name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))
        if (changes or kwargs.get("inplace")) and isinstance(args[0], Pair):
            args[0].__dict__.update(result.__dict__)
            return args[0]
        return result

    def query(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Shapes and the like: the whole network's."""
        with torch._C.DisableTorchFunctionSubclass():
            answer = func(*args, **kwargs)
        if isinstance(answer, torch.device):
            return args[0].whole[0].device
        if not isinstance(answer, Tensor):
            return answer
        self.force(args[0])
        return self.both(func, args, kwargs)

    def layer(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Pair | None:
        """A layer's output; the cut side waits until it is known what it is added to."""
        if not isinstance(input, Pair) or not isinstance(weight, Pair) or weight.label is None:
            return None
        name = weight.label
        if name not in self.layers or name in self.done:
            return None
        self.force(input)
        assert input.slim is not None and weight.slim is not None
        self.done.add(name)
        first = input.whole[0]
        how = Filter.of_call(first, weight.whole[0], None, *args, **kwargs)
        own = bias.whole[0] if isinstance(bias, Pair) else bias
        whole = [how.apply(x, weight.whole[0], own) for x in input.whole]
        inputs = input.slim
        if not self.feedback and how.groups == 1:
            columns = self._positions(name, 1, first.device)
            inputs = [x.index_select(1 if how.kernel else -1, columns) for x in input.whole]
        groups = inputs[0].shape[1] // weight.slim[0].shape[1] if how.groups > 1 else 1
        term = Term(
            module=self.module.get_submodule(name.rpartition(".")[0]),
            how=replace(how, groups=groups),
            inputs=inputs,
            target=whole,
            rows=self._positions(name, 0, first.device),
            exact=input.exact,
        )
        exact = input.exact and weight.slim[0].shape == weight.whole[0].shape
        return make_pair(self, whole, None, terms=(term,), exact=exact)

    def norm(self, input: Tensor, *args: Any, **kwargs: Any) -> Pair | None:
        """BN of a layer's output: a part of that layer, and where its intercept goes."""
        named = [a for a in (*args, *kwargs.values()) if isinstance(a, Pair) and a.label]
        alone = isinstance(input, Pair) and input.slim is None and len(input.terms) == 1
        if not isinstance(input, Pair) or not alone or input.rest is not None or len(named) != 4:
            return None
        term, path = input.terms[0], str(named[0].label).rpartition(".")[0]
        if term.norm is not None or term.solved or path in self.done or path not in self.alone:
            return None
        self.done.add(path)
        term.norm = self.module.get_submodule(path)
        term.target = [
            F.batch_norm(x, *tuple(side_of(args, "whole", 0)), **side_of(kwargs, "whole", 0))
            for x in input.whole
        ]
        return make_pair(self, term.target, None, terms=input.terms, exact=input.exact)

    def measure(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        """The cut network's statistics for a BN after a sum, a concat or an output read twice."""
        named = {a.label.rpartition(".")[2]: a for a in pairs_in((args, kwargs)) if a.label}
        mean, var = named.get("running_mean"), named.get("running_var")
        if not isinstance(input, Pair) or mean is None or var is None:
            return
        path = str(mean.label).rpartition(".")[0]
        self.force(input)
        if input.exact or path in self.done:
            return
        self.done.add(path)
        assert input.slim is not None and mean.slim is not None and var.slim is not None
        rows = None
        if (str(mean.label), 0) in self.graph.axes:
            rows = self._positions(str(mean.label), 0, mean.whole[0].device)
        base = Spread(mean.whole[0], var.whole[0]).rows(rows)
        before = [Spread.of(x).rows(rows) for x in input.whole]
        made = [
            moved(base, old, Spread.of(new)) for old, new in zip(before, input.slim, strict=True)
        ]
        mean.slim[0].copy_(torch.stack([each.mean for each in made]).mean(0))
        var.slim[0].copy_(torch.stack([each.var for each in made]).mean(0))

    def sum(self, a: Any, b: Any) -> Pair | None:
        """a + b where one of them waits: the sum waits with it."""
        if not (isinstance(a, Pair) and isinstance(b, Pair) and self.feedback):
            return None
        terms = tuple(t for p in (a, b) if p.slim is None for t in p.terms)
        if not terms or a.shape != b.shape or any(term.solved for term in terms):
            return None
        known = [side for p in (a, b) if (side := p.rest if p.slim is None else p.slim)]
        rest = [add_up(xs) for xs in zip(*known, strict=True)] if known else None
        whole = [x + y for x, y in zip(a.whole, b.whole, strict=True)]
        return make_pair(self, whole, None, terms=terms, rest=rest, exact=a.exact and b.exact)

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
        if name == "conv2d":
            x, weight, bias = (*own, options.get("bias"))[:3]
            return Filter.of_call(*own, **options).apply(x, weight, bias)
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
            return make_pair(self, whole, slim, exact=exact)
        if isinstance(whole[0], (tuple, list)):
            columns = zip(zip(*whole, strict=True), zip(*slim, strict=True), strict=True)
            return type(whole[0])([self.wrap(list(w), list(s), exact) for w, s in columns])
        return whole[0]

    def force(self, pair: Pair, low: float | None = None, high: float | None = None) -> None:
        """Refit the layers that `pair` waits for, then compute its cut side."""
        if pair.slim is not None:
            return
        terms, rest = pair.terms, [pair.rest] if pair.rest else []
        if pair.exact:
            pair.slim = pair.whole
        else:
            known = len(terms) == 1 and terms[0].exact and not rest and self.feedback
            if not known and not any(term.solved for term in terms):
                self.solve(pair, low, high)
            pair.slim = _total([term.values() for term in terms] + rest)
        for term in terms:
            term.solved = True
        pair.terms, pair.rest = (), None

    def solve(self, pair: Pair, low: float | None, high: float | None) -> None:
        """Refit the terms of a sum: jointly, or the later ones first where one is grouped."""
        first, *others = pair.terms
        rest = [pair.rest] if pair.rest else []
        if any(term.how.groups > 1 for term in pair.terms):
            for term in others:
                refit([term], term.target, None, None, None, self.settings)
            rest += [term.values() for term in others]
            others = []
        refit([first, *others], pair.whole, _total(rest), low, high, self.settings)

    def _positions(self, name: str, axis: int, device: torch.device) -> Tensor:
        return torch.from_numpy(self.graph.kept_positions(name, axis, self.kept)).to(device)


def _total(parts: Sequence[Sequence[Tensor]]) -> list[Tensor] | None:
    """Sum of several tensors given in batches."""
    return [add_up(tensors) for tensors in zip(*parts, strict=True)] if parts else None


def _state(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}
