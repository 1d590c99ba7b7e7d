"""One tensor of two networks: the whole one and its cut version, batch by batch.

A forward pass of the whole network on pairs runs both networks in step. Every torch function that
meets a pair is handed to the walk that the pair belongs to (`walk.Walk.call`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.graph import each
from pruning.reconstruction.filters import LAYER_CALLS, Filter
from pruning.reconstruction.refit import Term
from pruning.reconstruction.shelf import Item, Kept, Shelf

LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
TRANSPOSED = {f"conv_transpose{n}d" for n in (1, 2, 3)}
IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__"}


class Walk(Protocol):
    @property
    def shelf(self) -> Shelf: ...
    def call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Known:
    """The cut network's tensor, batch by batch."""

    values: Sequence[Tensor]


@dataclass(frozen=True)
class Pending:
    """It will be the sum of `terms`, layers to be refitted, and of `rest`, if any."""

    terms: tuple[Term, ...]
    rest: Sequence[Tensor] | None = None


class Pair(torch.Tensor):
    """A tensor of both networks, batch by batch; itself a meta tensor of the whole one's shape.

    exact: the cut network's tensor is known to be the whole one's.
    """

    walk: Walk
    label: str | None
    whole: Sequence[Tensor]
    state: Known | Pending
    exact: bool

    @property
    def slim(self) -> Sequence[Tensor]:
        """The cut side; the walk must have made it known."""
        assert isinstance(self.state, Known)
        return self.state.values

    def become(self, other: Pair) -> None:
        """Hold what `other` holds, as after an operation in place."""
        self.whole, self.state, self.exact = other.whole, other.state, other.exact

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        return next(pairs_in((args, kwargs))).walk.call(func, args, kwargs)


def make_pair(
    walk: Walk,
    whole: Sequence[Tensor],
    state: Known | Pending | None = None,
    *,
    label: str | None = None,
    exact: bool = False,
) -> Pair:
    """state: None where it is known to be the whole network's."""
    shape = torch.empty_like(whole[0], device="meta")
    made = torch.Tensor._make_subclass(Pair, shape)  # type: ignore[attr-defined]
    made.walk, made.label, made.whole = walk, label, whole
    made.state, made.exact = state or Known(whole), exact or state is None
    return made


def pairs_in(tree: Any) -> Iterator[Pair]:
    if isinstance(tree, Pair):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from pairs_in(item)
    elif isinstance(tree, Mapping):
        yield from pairs_in(list(tree.values()))


def side_of(tree: Any, side: str, i: int) -> Any:
    """Arguments with every pair replaced by its i-th batch; parameters have just one."""
    if isinstance(tree, Pair):
        values = getattr(tree, side)
        return values[i if len(values) > 1 else 0]
    if isinstance(tree, (tuple, list)) and not isinstance(tree, torch.Size):
        return type(tree)([side_of(item, side, i) for item in tree])
    if isinstance(tree, Mapping):
        return {key: side_of(item, side, i) for key, item in tree.items()}
    return tree


def run(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Never in place: batches are shared with layers that wait."""
    name = getattr(func, "__name__", "")
    if name in IN_PLACE or _ends_in_place(name):
        args = (args[0].clone(), *args[1:])
    if kwargs.get("inplace"):
        kwargs = {**kwargs, "inplace": False}
    return func(*args, **kwargs)


def changes_input(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation writes its result into its first argument."""
    return name in IN_PLACE or _ends_in_place(name) or bool(kwargs.get("inplace"))


def _ends_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def add_up(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def clipping(name: str, args: Any, kwargs: Any) -> tuple[float | None, float | None]:
    """Where an activation clips its input: (low, high), None for nowhere."""
    if name in {"relu", "relu_"}:
        return 0.0, None
    if name in {"relu6", "hardtanh", "hardtanh_"}:
        default = (0.0, 6.0) if name == "relu6" else (-1.0, 1.0)
        given = tuple(args[1:3])
        low, high = given + default[len(given) :]
        return float(kwargs.get("min_val", low)), float(kwargs.get("max_val", high))
    return None, None


def _narrowed(sizes: Any, wide: torch.Size, narrow: torch.Size) -> tuple[int, ...]:
    """Sizes that the code read off the whole network's tensor, for the cut one's."""
    flat = tuple(sizes[0]) if isinstance(sizes[0], (tuple, list)) else tuple(sizes)
    if -1 in flat:
        return flat
    swap = {w: n for w, n in zip(wide[1:], narrow[1:], strict=True) if w != n}
    return (flat[0], *(swap.get(n, n) for n in flat[1:]))


def both(walk: Walk, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The operation on both networks' tensors."""
    pairs = list(pairs_in((args, kwargs)))
    exact = all(pair.exact or pair.slim is pair.whole for pair in pairs)
    put: Callable[[Tensor], Any] = walk.shelf.put
    whole, slim = [], []
    for i in range(max(len(pair.whole) for pair in pairs)):
        made = run(func, side_of(args, "whole", i), side_of(kwargs, "whole", i))
        whole.append(each(made, put))
        if exact:
            slim.append(whole[-1])
        else:
            slim.append(each(_narrow(func, args, kwargs, i), put))
    return _wrap(walk, whole, slim, exact)


def _narrow(func: Callable[..., Any], args: Any, kwargs: Any, i: int) -> Any:
    """The operation on the cut network's tensors, where it may have to know their sizes."""
    own, options = side_of(args, "slim", i), side_of(kwargs, "slim", i)
    name = getattr(func, "__name__", "")
    if name in LAYERS:
        given = layer_arguments(own, options)
        how = Filter.of_call(*own, **options)
        return how.apply(given["input"], given["weight"], given.get("bias"))
    if name in {"view", "reshape"} and len(own) > 1:
        own = (own[0], _narrowed(own[1:], args[0].whole[0].shape, own[0].shape))
        func = torch.reshape
    try:
        return run(func, own, options)
    except (RuntimeError, IndexError) as error:
        line = str(error).splitlines()[0]
        raise UserError(
            f"cannot follow '{name}' on fewer channels ({line}); use repair none"
        ) from error


def _wrap(walk: Walk, whole: list[Any], slim: list[Any], exact: bool) -> Any:
    if isinstance(whole[0], Item):
        kept = Kept(whole)
        return make_pair(walk, kept, None if exact else Known(Kept(slim)))
    if isinstance(whole[0], (tuple, list)):
        columns = zip(zip(*whole, strict=True), zip(*slim, strict=True), strict=True)
        return type(whole[0])([_wrap(walk, list(w), list(s), exact) for w, s in columns])
    return whole[0]


def layer_arguments(args: Any, kwargs: Any) -> dict[str, Any]:
    """input, weight and bias of a layer's call, however they were passed."""
    return {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}


def filter_of(func: Callable[..., Any], args: Any, kwargs: Any) -> Filter | None:
    """How a call of a layer reads its input; None: not as a filter."""
    with torch._C.DisableTorchFunctionSubclass():
        return LAYER_CALLS[func](*args, **kwargs)
