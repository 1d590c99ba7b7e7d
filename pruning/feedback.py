"""Sequential compensation with error feedback: a closed-form repair of any cut network.

The whole and the cut network run side by side over a few images, operation by operation. Every
convolution and linear layer of the cut one is refitted by least squares, on what the *cut* network
hands it, to what the whole network computes; where its output is added to a stream, the target
carries the error that the stream has collected so far, so each layer is asked to undo what its
predecessors got wrong. Where a ReLU follows, errors that it hides do not count. Ours (METHODS 7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from pruning.compensate import RIDGE, Moments, regress
from pruning.covariance import (
    LAYER_CALLS,
    POSITIONS,
    Filter,
    Sums,
    outputs,
    patches,
    thinning,
)
from pruning.errors import UserError
from pruning.evaluation import evaluation_mode
from pruning.graph import ChannelGraph, Keep
from pruning.images import Batches
from pruning.refit import Term, write

ROUNDS = 4  # regressions against the ReLU's view of the target; more gain little


@torch.no_grad()
def feedback(
    slim: nn.Module,
    whole: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    batches: Batches,
    *,
    rounds: int = ROUNDS,
    positions: int = POSITIONS,
    ridge: float = RIDGE,
) -> None:
    """Refit every layer of `slim` = cut(whole, graph, keep), in place, without gradients.

    Some 1,000 images do; all their activations at one depth are held at once. BN layers get the
    statistics of the cut network. A layer without BN or bias that needs one gets a bias.
    """
    images = [x for x, _ in batches]
    images = [x for x in images if len(x) == len(images[0])]
    state, own = _state(whole), _state(slim)
    walk = _Walk(slim, graph, graph.kept_units(keep), own, rounds, positions, ridge)
    tensors: dict[str, Tensor] = {
        name: _pair(walk, [tensor], [own[name]], name=name) for name, tensor in state.items()
    }
    with evaluation_mode(whole), evaluation_mode(slim):
        out = functional_call(whole, tensors, (_pair(walk, images, images),))
        for pair in _pairs(out):
            walk.force(pair)


class _Pair(torch.Tensor):
    """A tensor of both networks, batch by batch; itself a meta tensor of the whole one's shape.

    `slim` is None while `terms`, layers that are still to be refitted, sum up to it with `rest`
    (what is already known of that sum, None for nothing).
    """

    walk: _Walk
    name: str | None
    whole: list[Tensor]
    slim: list[Tensor] | None
    terms: tuple[Term, ...]
    rest: list[Tensor] | None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        walk = next(pair.walk for pair in _pairs((args, kwargs)))
        return walk.call(func, args, kwargs)


def _pair(
    walk: _Walk,
    whole: Sequence[Tensor],
    slim: Sequence[Tensor] | None,
    *,
    name: str | None = None,
    terms: tuple[Term, ...] = (),
    rest: list[Tensor] | None = None,
) -> _Pair:
    made = torch.Tensor._make_subclass(_Pair, torch.empty_like(whole[0], device="meta"))
    made.walk, made.name, made.terms, made.rest = walk, name, terms, rest
    made.whole = list(whole)
    made.slim = None if slim is None else made.whole if slim is whole else list(slim)
    return made


@dataclass
class _Walk:
    """One pass of both networks; `call` stands in for every torch function."""

    module: nn.Module
    graph: ChannelGraph
    kept: Any  # bool [units + 1]
    state: Mapping[str, Tensor]
    rounds: int
    positions: int
    ridge: float

    def __post_init__(self) -> None:
        self.layers = {layer.weight for layer in self.graph.layers}
        self.done: set[str] = set()

    # --- what each operation does ---------------------------------------------------------------

    def call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__" or name in QUERIES:
            return self.query(func, args, kwargs)
        if func in LAYER_CALLS and (term := self.new_term(*args, **kwargs)) is not None:
            return term
        if name == "batch_norm" and (normed := self.normed(*args, **kwargs)) is not None:
            return normed
        if name in SUMS and (total := self.sum(args, kwargs)) is not None:
            return self.in_place(name, args, total)
        if name in DROPOUTS:
            return args[0]  # evaluation mode
        low, high = _clipping(name, args, kwargs)
        for pair in _pairs((args, kwargs)):
            self.force(pair, low, high)
        return self.in_place(name, args, self.both(func, args, kwargs))

    def query(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Shapes and the like, of the whole network's tensor."""
        with torch._C.DisableTorchFunctionSubclass():
            answer = func(*args, **kwargs)
        if isinstance(answer, torch.device):
            return args[0].whole[0].device
        return self.both(func, args, kwargs) if isinstance(answer, Tensor) else answer

    def new_term(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> _Pair | None:
        """A layer's output, whose cut side waits until it is known what it is added to."""
        named = isinstance(weight, _Pair) and weight.name in self.layers - self.done
        if not named or not isinstance(input, _Pair):
            return None
        self.force(input)
        own = None if bias is None else bias.whole[0]
        how = Filter.of_call(input, weight, None, *args, **kwargs)
        result = [how.apply(x, weight.whole[0], own) for x in input.whole]
        self.done.add(weight.name)
        slim_how = Filter(how.kernel, how.stride, how.padding, how.dilation, 1)
        if how.groups > 1:
            groups = input.slim[0].shape[1] // weight.slim[0].shape[1]
            slim_how = Filter(how.kernel, how.stride, how.padding, how.dilation, groups)
        rows = self.graph.kept_positions(weight.name, 0, self.kept)
        term = Term(
            module=self.module.get_submodule(weight.name.rpartition(".")[0]),
            how=slim_how,
            inputs=input.slim,
            exact=input.slim is input.whole,
            rows=torch.from_numpy(rows).to(result[0].device),
        )
        return _pair(self, result, None, terms=(term,))

    def normed(self, input: Tensor, *args: Any, **kwargs: Any) -> _Pair | None:
        """BN of a layer's output: part of the layer, and where its intercept goes."""
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, _Pair)]
        alone = isinstance(input, _Pair) and len(input.terms) == 1 and input.rest is None
        if not alone or len(tensors) != 4 or any(t.name is None for t in tensors):
            return None
        term = input.terms[0]
        path = tensors[0].name.rpartition(".")[0]
        if term.norm is not None or term.solved or path in self.done:
            return None
        self.done.add(path)
        term.norm = self.module.get_submodule(path)
        return _pair(
            self,
            [_whole(F.batch_norm, (x, *args), kwargs) for x in input.whole],
            None,
            terms=input.terms,
        )

    def sum(self, args: Any, kwargs: Any) -> _Pair | None:
        """a + b where one of them waits: the sum waits with it."""
        a, b = (*args, None)[:2]
        if kwargs or len(args) != 2 or not (isinstance(a, _Pair) and isinstance(b, _Pair)):
            return None
        terms = a.terms + b.terms
        if not terms or a.whole[0].shape != b.whole[0].shape or any(t.solved for t in terms):
            return None
        known = [p.rest if p.slim is None else p.slim for p in (a, b)]
        rests = [k for k in known if k is not None]
        rest = rests[0] if len(rests) == 1 else None
        if len(rests) == 2:
            rest = [x + y for x, y in zip(*rests, strict=True)]
        whole = [x + y for x, y in zip(a.whole, b.whole, strict=True)]
        return _pair(self, whole, None, terms=terms, rest=rest)

    def in_place(self, name: str, args: Any, result: Any) -> Any:
        """For `x.relu_()` and the like: x becomes the result."""
        changed = name.endswith("_") and not name.endswith("__")
        if (changed or name in AUGMENTED) and isinstance(args[0], _Pair):
            args[0].__dict__.update(result.__dict__)
            return args[0]
        return result

    def both(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The operation on both networks' tensors."""
        pairs = list(_pairs((args, kwargs)))
        count = max(len(pair.whole) for pair in pairs)
        same = all(pair.slim is pair.whole for pair in pairs)
        whole, slim = [], []
        for i in range(count):
            whole.append(_plain(func, _side(args, "whole", i), _side(kwargs, "whole", i)))
            slim.append(whole[-1] if same else self.slim_call(func, args, kwargs, i))
        return self.wrap(whole, slim, same)

    def slim_call(self, func: Callable[..., Any], args: Any, kwargs: Any, i: int) -> Any:
        own = (_side(args, "slim", i), _side(kwargs, "slim", i))
        name = getattr(func, "__name__", "")
        if func in LAYER_CALLS and "conv" in name:
            return Filter.of_call(*own[0], **own[1]).apply(*(*own[0], own[1].get("bias"))[:3])
        if name in {"view", "reshape"}:
            narrow, wide = own[0][0].shape, args[0].whole[i].shape
            swap = dict(zip(wide[1:2], narrow[1:2], strict=True))
            sizes = own[0][1] if isinstance(own[0][1], (tuple, list)) else own[0][1:]
            if -1 not in sizes and len(sizes) > 1:
                sizes = (sizes[0], *(swap.get(n, n) for n in sizes[1:]))
                return own[0][0].reshape(sizes)
        try:
            return _plain(func, *own)
        except (RuntimeError, IndexError) as error:
            raise UserError(
                f"feedback cannot follow {name or func} on fewer channels ({error}); "
                "use the repair 'none' for this network"
            ) from error

    def wrap(self, whole: list[Any], slim: list[Any], same: bool) -> Any:
        if isinstance(whole[0], Tensor):
            return _pair(self, whole, whole if same else slim)
        if isinstance(whole[0], (tuple, list)):
            columns = zip(zip(*whole, strict=True), zip(*slim, strict=True), strict=True)
            return type(whole[0])(self.wrap(list(w), list(s), same) for w, s in columns)
        return whole[0]

    # --- the repair -----------------------------------------------------------------------------

    def force(self, pair: _Pair, low: float | None = None, high: float | None = None) -> None:
        """Refit the layers that `pair` waits for, then compute its cut side."""
        if pair.slim is not None:
            return
        todo = [term for term in pair.terms if not term.solved]
        mixed = len(pair.terms) > 1 and any(t.how.groups > 1 for t in pair.terms)
        if todo and not mixed:
            self.refit(pair, low, high)
        for term in todo:
            term.solved = True
        values = pair.rest
        for term in pair.terms:
            own = term.values()
            values = own if values is None else [a + b for a, b in zip(values, own, strict=True)]
        pair.slim, pair.terms, pair.rest = values, (), None
        exact = all(term.exact and len(term.rows) == pair.whole[0].shape[1] for term in pair_terms)
        if exact:
            pair.slim = pair.whole
