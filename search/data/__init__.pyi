from . import given as given
from . import packing as packing
from . import spec as spec
from . import splits as splits
from .given import Given as Given
from .spec import KINDS as KINDS
from .spec import USER as USER
from .spec import DataConfig as DataConfig
