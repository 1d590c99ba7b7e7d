"""The sampler that models the accuracy only: a Gaussian process, and the hypervolume to be gained.

`EHVISampler` for a study, `Surrogate` for whoever wants accuracies without their noise.
"""

from search.study.ehvi.sampler import CUT_BY, TRIAL_ID, WARM, WIDTHS, EHVISampler
from search.study.ehvi.surrogate import Inputs, Networks, Surrogate

__all__ = [
    "CUT_BY",
    "TRIAL_ID",
    "WARM",
    "WIDTHS",
    "EHVISampler",
    "Inputs",
    "Networks",
    "Surrogate",
]
