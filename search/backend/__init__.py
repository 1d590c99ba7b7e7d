"""All of Ray, and nothing else of it: cluster, tuner, workers, final trainings, progress.

The runner and the comparison take `cluster`, `tuner`, `final` and `retrain` from here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
