"""The run folder, on a disk or an object store: files, ledger, run.json, lock, results.

Others take Ledger, Row, `record`, `lock` and Results from here.
Readers never write; what is written is whole.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
