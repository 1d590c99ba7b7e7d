from . import front as front
from .front import Reference as Reference
from .front import reference_point as reference_point
from .strata import Strata as Strata
from .strata import alike as alike
from .strata import even as even
