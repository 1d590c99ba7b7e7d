"""RUN/report.html: a run as one self-contained page.

Others take `page` from here: `page.write(run)`.
Whatever comes from the run is escaped.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
