"""Networks by name and as files: the registry, the CIFAR networks, one-file checkpoints.

Others take `resolve`, `load`, `save`, ModelInfo and the file layer from here.
Runs no code because a file said so: factories need the caller's consent.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
