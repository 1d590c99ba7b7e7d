"""Gates on channels, learnt under a price while everything else stays frozen."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.data import Samples, call
from pruning.graph import ChannelGraph
from pruning.training import Substituted, loss_mode, scalar

TRAVEL = 5.0  # way that Adam can push a gate: 500 steps of 1e-2
CLOSED = 0.5
FACTOR = 8.0  # first move of the penalty; each further one is its square root


class GatedNetwork:
    """A frozen network with one gate per unit; `model` itself is never edited.

    The gates scale the weights that read a unit. For ReLU and linear nets that is the same as
    scaling the BN output of all that write it, and at gate 0 it is the cut network for any.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.model, self.units = model, graph.units
        self.state = {name: tensor.detach() for name, tensor in tensors.items()}
        self.readers = {}
        for name, axis in {layer.weight: layer.read for layer in graph.layers}.items():
            owner = graph.axes[name, axis]
            if (owner < graph.units).any():
                shape = tuple(-1 if i == axis else 1 for i in range(len(graph.shapes[name])))
                index = torch.from_numpy(owner).to(self.state[name].device)
                self.readers[name] = (index, shape)

    def __call__(self, gates: Tensor, inputs: Any) -> Tensor:
        """Logits with gates (float [units]) on images."""
        logits: Tensor = call(self.under(gates), inputs)
        return logits.float()

    def under(self, gates: Tensor) -> nn.Module:
        """The network with gates (float [units]), differentiable by them."""
        factors = torch.cat([gates, gates.new_ones(1)])
        state = dict(self.state)
        for name, (index, shape) in self.readers.items():
            factor = factors.index_select(0, index).view(shape)
            state[name] = state[name] * factor.to(state[name].dtype)
        return Substituted(self.model, state)


def learn_gates(
    network: GatedNetwork,
    batches: Iterable[Any] | Samples,
    prices: np.ndarray,
    gamma: float,
    steps: int,
) -> np.ndarray:
    """Gates α ≥ 0 from 1 that minimise the loss + gamma·Σ price·α; float64 [units].

    prices: float [units]. Evaluation mode, Adam; its rate is 1e-2, or higher where `steps` are too
    few for a gate to close at that.
    """
    samples = Samples.of(batches)
    device = next(iter(network.state.values())).device
    gates = torch.ones(network.units, device=device, requires_grad=True)
    price = torch.as_tensor(gamma * prices, dtype=torch.float32, device=device)
    adam = torch.optim.Adam([gates], lr=max(1e-2, TRAVEL / steps))
    with loss_mode(network.model, samples), torch.enable_grad():
        for batch in islice(cycle(samples.batches), steps):
            loss = scalar(samples.loss(network.under(gates), batch)) + (price * gates).sum()
            (gates.grad,) = torch.autograd.grad(loss, [gates])
            adam.step()
            with torch.no_grad():
                gates.clamp_(min=0)
    return gates.detach().double().cpu().numpy()


def balanced_gamma(
    network: GatedNetwork,
    batches: Iterable[Any] | Samples,
    prices: np.ndarray,
    *,
    rounds: int,
    steps: int,
) -> float:
    """A gamma that closes about half of the gates, by a few short trainings.

    It starts where the price outweighs the loss for half of the gates at 1.
    """
    samples = Samples.of(batches)
    device = next(iter(network.state.values())).device
    gates = torch.ones(network.units, device=device, requires_grad=True)
    batch = next(iter(samples.batches))
    with loss_mode(network.model, samples), torch.enable_grad():
        loss = scalar(samples.loss(network.under(gates), batch))
        (gradient,) = torch.autograd.grad(loss, [gates])
    slopes = gradient.abs().double().cpu().numpy() / np.maximum(prices, 1e-12)
    gamma, factor = max(float(np.median(slopes)), 1e-12), FACTOR
    for _ in range(rounds):
        closed = learn_gates(network, batches, prices, gamma, steps) < CLOSED
        gamma *= factor if closed.mean() < 0.5 else 1 / factor
        factor **= 0.5
    return gamma
