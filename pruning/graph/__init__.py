"""The channel graph of a network: which channels live and die together, and what they cost.

Tracing makes it; surgery, masking, widths and cost only read it. Others take the plain data
(ChannelGraph, Problem, Lattice, Keep), `trace`, `cut` and the cost from here.
Imports nothing of pruning but its errors.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
