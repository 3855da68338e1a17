"""Initial scales for any activation, and how variance and correlation travel through depth
(docs/theory/critical_init.md)."""

from hptransfer.prediction.inits.inits import InitPoint as InitPoint
from hptransfer.prediction.inits.inits import depth_balanced as depth_balanced
from hptransfer.prediction.inits.inits import edge_of_chaos as edge_of_chaos
from hptransfer.prediction.inits.inits import residual_scale as residual_scale
from hptransfer.prediction.inits.inits import variance_preserving as variance_preserving
from hptransfer.prediction.inits.signal import MeasuredSignal as MeasuredSignal
from hptransfer.prediction.inits.signal import SignalForecast as SignalForecast
from hptransfer.prediction.inits.signal import fixed_correlation as fixed_correlation
from hptransfer.prediction.inits.signal import measure_signal as measure_signal
from hptransfer.prediction.inits.signal import propagate as propagate
from hptransfer.prediction.inits.stack_init import LayerSignal as LayerSignal
from hptransfer.prediction.inits.stack_init import forecast_stack as forecast_stack
from hptransfer.prediction.inits.stack_init import stack_init as stack_init
