from . import dashboards as dashboards
from . import exports as exports
from . import formats as formats
from . import int8 as int8
from . import latencies as latencies
from . import onnx as onnx
from .dashboards import distributions as distributions
from .onnx import Deployed as Deployed
