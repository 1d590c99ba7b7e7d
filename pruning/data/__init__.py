"""Images as batches on a device, from memory or streamed.

Others take Images, ImageSet, Samples and the Batch types from here.
Knows no search.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
