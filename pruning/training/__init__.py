"""Short trainings and what judges them: recipe, loop, evaluation, batch norm.

Others take Recipe, `finetune`, `evaluate` and `recalibrate` from here.
A training changes the network given, in place.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
