"""NNGP and NTK of infinitely wide networks, tangent kernels of real ones, and training in their regime
(docs/theory/ntk.md)."""

from hptransfer.prediction.kernels.dual import Dual as Dual
from hptransfer.prediction.kernels.dual import dual_of as dual_of
from hptransfer.prediction.kernels.empirical_ntk import empirical_ntk as empirical_ntk
from hptransfer.prediction.kernels.empirical_ntk import empirical_ntk_by_block as empirical_ntk_by_block
from hptransfer.prediction.kernels.empirical_ntk import ntk_lambda_max as ntk_lambda_max
from hptransfer.prediction.kernels.empirical_ntk import ntk_operator as ntk_operator
from hptransfer.prediction.kernels.gaussian import Activation as Activation
from hptransfer.prediction.kernels.gaussian import activation as activation
from hptransfer.prediction.kernels.kernel_regime import KernelRegime as KernelRegime
from hptransfer.prediction.kernels.kernel_regime import max_lr as max_lr
from hptransfer.prediction.kernels.ntk import Kernel as Kernel
from hptransfer.prediction.kernels.ntk import act as act
from hptransfer.prediction.kernels.ntk import conv as conv
from hptransfer.prediction.kernels.ntk import dense as dense
from hptransfer.prediction.kernels.ntk import flatten as flatten
from hptransfer.prediction.kernels.ntk import global_average_pool as global_average_pool
from hptransfer.prediction.kernels.ntk import infinite_width as infinite_width
from hptransfer.prediction.kernels.ntk import residual as residual
from hptransfer.prediction.kernels.ntk import rms_norm as rms_norm
from hptransfer.prediction.kernels.ntk import serial as serial
