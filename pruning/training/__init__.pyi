from .batch_norm import recalibrate as recalibrate
from .evaluation import evaluate as evaluate
from .evaluation import evaluation_mode as evaluation_mode
from .evaluation import mean_loss as mean_loss
from .loop import finetune as finetune
from .recipe import Recipe as Recipe
