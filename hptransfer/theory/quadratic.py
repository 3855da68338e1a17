"""The noisy quadratic: expected loss, best rate and best schedule, also of a model where it stands
(docs/theory/quadratic.md)."""

from hptransfer.prediction.quadratic.local_quadratic import LocalQuadratic as LocalQuadratic
from hptransfer.prediction.quadratic.local_quadratic import local_quadratic as local_quadratic
from hptransfer.prediction.quadratic.quadratic import NoisyQuadratic as NoisyQuadratic
from hptransfer.prediction.quadratic.quadratic import final_losses as final_losses
from hptransfer.prediction.quadratic.quadratic import loss_curve as loss_curve
from hptransfer.prediction.quadratic.quadratic_optimum import SHAPES as SHAPES
from hptransfer.prediction.quadratic.quadratic_optimum import HedgedLR as HedgedLR
from hptransfer.prediction.quadratic.quadratic_optimum import QuadraticOptimum as QuadraticOptimum
from hptransfer.prediction.quadratic.quadratic_optimum import hedged_lr as hedged_lr
from hptransfer.prediction.quadratic.quadratic_optimum import optimal_lr as optimal_lr
from hptransfer.prediction.quadratic.quadratic_optimum import optimal_schedule as optimal_schedule
