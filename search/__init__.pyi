from .api import Interrupted as Interrupted
from .api import open_run as open_run
from .api import run as run
from .config.schema import Config as Config
from .pareto import Metric as Metric
from .result import Point as Point
from .result import Result as Result
from .tasks import Task as Task
