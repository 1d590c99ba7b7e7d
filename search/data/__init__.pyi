from . import splits as splits
from .splits import KINDS as KINDS
from .splits import DataConfig as DataConfig
