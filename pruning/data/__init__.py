"""Images as batches on a device, from memory or streamed.

Others take Images, ImageSet and the Batch types from here.
Knows neither networks nor searches.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
