from . import front as front
from . import growth as growth
from .front import Reference as Reference
from .front import reference_point as reference_point
from .growth import Patience as Patience
from .strata import Strata as Strata
from .strata import alike as alike
from .strata import even as even
