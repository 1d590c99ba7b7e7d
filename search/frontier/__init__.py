"""The frontier of a run: its points on disk, choosing one, one-shot baselines beside it.

Commands and report take `points`, `select` and `baselines` from here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
