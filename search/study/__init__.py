"""Ask and tell: which candidate is tried next, and what ended trials say. No Ray in here.

The backend takes Study, Candidate and the screening from here.
Rebuilt from the ledger at every start.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
