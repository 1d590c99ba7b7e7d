from . import dashboards as dashboards
from . import latencies as latencies
from . import onnx as onnx
from .dashboards import distributions as distributions
from .onnx import Deployed as Deployed
