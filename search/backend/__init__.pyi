from . import base_task as base_task
from . import cluster as cluster
from . import final as final
from . import preflight as preflight
from . import retrain as retrain
from . import tuner as tuner
from .cluster import Share as Share
from .final import Member as Member
