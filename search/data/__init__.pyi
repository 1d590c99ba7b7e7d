from . import spec as spec
from . import splits as splits
from .spec import KINDS as KINDS
from .spec import DataConfig as DataConfig
