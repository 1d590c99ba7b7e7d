"""One trial in one process: base model, cut, repair, fine-tuning, scores. No Ray in here.

The backend takes the base model, the trial and its latency from here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
