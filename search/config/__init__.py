"""Configuration: typed options, YAML and flags, quantities, checks before anything runs.

Others take Config and its parts, `loader`, `quantity` and Parser from here.
Imports no torch: `--help` is instant.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
