"""Sequential compensation with error feedback: a closed-form repair of any cut network.

The whole and the cut network run side by side over a few images, operation by operation. Every
convolution and linear layer of the cut one is refitted by least squares, on what the *cut* network
hands it, to what the whole network computes. Where its output is added to a stream, the target
carries the error that the stream has collected so far: each layer undoes what it can of what its
predecessors got wrong. Where a ReLU follows, errors that it hides do not count. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruning.data import Samples, part_size
from pruning.errors import UserError
from pruning.graph import ChannelGraph, Keep
from pruning.reconstruction import budget
from pruning.reconstruction.calls import usage
from pruning.reconstruction.compensation import compensate_layers
from pruning.reconstruction.lockstep import Known, make_pair, pairs_in
from pruning.reconstruction.moments import input_moments
from pruning.reconstruction.refit import Settings
from pruning.reconstruction.shelf import Item, Kept, Shelf
from pruning.reconstruction.walk import Walk
from pruning.training import carry_over, evaluation_mode

MOST_PIXELS = 2**24


@torch.no_grad()
def repair(
    slim: nn.Module,
    whole: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    batches: Iterable[Any] | Samples,
    *,
    feedback: bool = True,
    settings: Settings | None = None,
) -> None:
    """Refit every layer of `slim` = cut(whole, graph, keep), in place, without gradients.

    Some 1,000 images do, 300 of 224x224: all their activations at one depth are held at once, so
    no more than MOST_PIXELS are read. What the samples' workspace has no memory for waits in a
    file; the result is the same. BNs get statistics that fit the cut network. A layer with neither
    BN nor bias gets a bias. A layer that is called more than once is refitted once, on the whole
    network's inputs at all its calls. feedback=False does so with all of them, as CaP does.
    UserError where the network's code cannot be followed, or memory is too small for any part.
    """
    samples = Samples.of(batches)
    workspace, least = samples.workspace, budget.repairing(graph)
    budget.refuse("the repair", least, workspace, "or repair none")
    shelf = Shelf(workspace, budget.SHARE * (workspace.bytes - least))
    images = _images(samples.inputs, shelf)
    settings = settings or Settings()
    if not feedback:
        settings = replace(settings, rounds=0)
    used = usage(whole, graph, images[0][:2])
    if used.shared:
        own_images = replace(samples, inputs=images, workspace=workspace.less(shelf.held))
        moments = input_moments(whole, graph, own_images, settings.positions, used.shared)
        compensate_layers(slim, whole, graph, keep, moments, used.norms)
    own = _state(slim)
    kept = graph.kept_units(keep)
    given = _state(whole)
    walk = Walk(
        tensors=given,
        module=slim,
        graph=graph,
        kept=kept,
        feedback=feedback,
        settings=settings,
        norms=used.norms,
        shelf=shelf,
        tell=workspace.step,
        done=set(used.shared),
    )
    tensors: dict[str, Tensor] = {
        name: make_pair(walk, [tensor], Known([own[name]]), label=name)
        for name, tensor in given.items()
    }
    with evaluation_mode(whole), evaluation_mode(slim):
        out = functional_call(whole, tensors, (make_pair(walk, images),))
        for pair in pairs_in(out):
            walk.force(pair)
    if not feedback:  # each layer was fitted to what the whole network reads, not the cut one
        carry_over(slim, whole, graph, keep, samples, refitted=walk.refitted)


def _images(batches: Iterable[Any], shelf: Shelf) -> Kept:
    """Parts of one size, up to MOST_PIXELS in all, at least one; a short last batch is left out.

    UserError where the network is not called with one tensor of [N, C, ...].
    """
    found: list[Item] = []
    count = pixels = size = 0
    for x in batches:
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise UserError(
                "repair follows networks that take one tensor [N, C, ...], this one takes "
                f"{type(x).__name__}; use repair none, or auto, which does what can be done"
            )
        if not found:
            count, pixels = len(x), x[0, 0].numel() * len(x)
            most = min(part_size(x.shape[1:]), count)
            size = next(n for n in range(most, 0, -1) if count % n == 0)
        elif pixels + x[0, 0].numel() * len(x) > MOST_PIXELS:
            break
        elif len(x) == count:
            pixels += x[0, 0].numel() * len(x)
        if len(x) == count:  # with a budget copies, so that none holds the memory of its batch
            found += [
                shelf.put(part.clone() if shelf.room < math.inf else part) for part in x.split(size)
            ]
    if not found:
        raise UserError("no images to repair with; hand in at least one batch")
    return Kept(found)


def _state(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}
