"""The data sets of a run: what a user names becomes train, val and test.

Others take DataConfig and `splits` from here.
Val is held out of train; test is for the frontier alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
