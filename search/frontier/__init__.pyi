from . import baselines as baselines
from . import correlation as correlation
from . import pictures as pictures
from . import points as points
from . import select as select
from .select import ChooseOptions as ChooseOptions
