"""The largest stable learning rate x curvature of an update rule (docs/theory/stability.md)."""

from hptransfer.prediction.quadratic.stability import MomentumRule as MomentumRule
from hptransfer.prediction.quadratic.stability import ema as ema
from hptransfer.prediction.quadratic.stability import ema_nesterov as ema_nesterov
from hptransfer.prediction.quadratic.stability import gd as gd
from hptransfer.prediction.quadratic.stability import heavy_ball as heavy_ball
from hptransfer.prediction.quadratic.stability import limit as limit
from hptransfer.prediction.quadratic.stability import nesterov as nesterov
from hptransfer.prediction.quadratic.stability import rule_for as rule_for
from hptransfer.prediction.quadratic.stability import spectral_radius as spectral_radius
