"""Points for other programs: ONNX, exported programs, measured latencies, dashboards.

The export command takes what it needs from here.
Every file is run and compared before it gets its name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
