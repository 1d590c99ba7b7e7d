from . import limits as limits
from .candidate import Candidate as Candidate
from .ehvi.finalists import finalists as finalists
from .factory import make_study as make_study
from .screening import Screening as Screening
from .study import Study as Study
from .warm_start import PATH as PATH
