"""From a network to its ChannelGraph: one forward pass under labels, checked afterwards."""

from pruning.graph.tracing.labels import tensors_in
from pruning.graph.tracing.tracer import trace

__all__ = ["tensors_in", "trace"]
