"""From a network to its ChannelGraph: one forward pass under labels, checked afterwards."""

from pruning.graph.tracing.inputs import each
from pruning.graph.tracing.labels import tensors_in
from pruning.graph.tracing.tracer import trace

__all__ = ["each", "tensors_in", "trace"]
