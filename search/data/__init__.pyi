from . import spec as spec
from . import splits as splits
from .spec import KINDS as KINDS
from .spec import DataConfig as DataConfig
from .splits import KINDS as KINDS
from .splits import DataConfig as DataConfig
