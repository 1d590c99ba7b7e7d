"""Which trials are trained to their end: `Screening` judges them once repaired, `Halving` at rungs.

Both put trials in order by cost and score; neither knows Ray.
"""

from search.study.stopping.halving import Halving, rungs
from search.study.stopping.screening import Screening

__all__ = ["Halving", "Screening", "rungs"]
