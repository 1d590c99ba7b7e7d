"""Structured channel pruning of any nn.Module: trace, cost, cut, repair, save.

Names load on first use: importing this package alone costs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
