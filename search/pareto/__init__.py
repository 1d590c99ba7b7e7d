"""Pareto sets of costs and scores: sorting, hypervolume, reference point, strata.

Others take `front`, `strata` and Reference from here.
Knows arrays, not runs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
