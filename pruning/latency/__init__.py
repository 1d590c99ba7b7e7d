"""Time as a closed form of the widths: layers timed once on a grid, whole networks foretold.

Offers: runtimes (PyTorch, ONNX Runtime), the table of a network, its timings kept on disk.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
