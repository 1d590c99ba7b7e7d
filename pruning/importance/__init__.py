"""What methods measure of channels: magnitude, BN scale, Taylor, gates, variance, gain curve.

The methods take their scores from here; nothing here allocates or cuts.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
