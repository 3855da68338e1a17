"""Sharpness, spectra and preconditioners of a real model, by matrix-vector products (docs/theory/curvature.md)."""

from hptransfer.prediction.curvature.batch_sharpness import BatchSharpness as BatchSharpness
from hptransfer.prediction.curvature.batch_sharpness import batch_sharpness as batch_sharpness
from hptransfer.prediction.curvature.curvature import Sharpness as Sharpness
from hptransfer.prediction.curvature.curvature import curvature_operator as curvature_operator
from hptransfer.prediction.curvature.curvature import sharpness as sharpness
from hptransfer.prediction.curvature.curvature import sharpness_by_block as sharpness_by_block
from hptransfer.prediction.curvature.lanczos import EigenPair as EigenPair
from hptransfer.prediction.curvature.lanczos import Quadrature as Quadrature
from hptransfer.prediction.curvature.lanczos import SpectralDensity as SpectralDensity
from hptransfer.prediction.curvature.lanczos import extreme_eigenpair as extreme_eigenpair
from hptransfer.prediction.curvature.lanczos import lanczos_quadrature as lanczos_quadrature
from hptransfer.prediction.curvature.lanczos import spectral_density as spectral_density
from hptransfer.prediction.curvature.norm_sharpness import NormGeometry as NormGeometry
from hptransfer.prediction.curvature.norm_sharpness import NormSharpness as NormSharpness
from hptransfer.prediction.curvature.norm_sharpness import norm_sharpness as norm_sharpness
from hptransfer.prediction.curvature.operators import Operator as Operator
from hptransfer.prediction.curvature.operators import check_deterministic as check_deterministic
from hptransfer.prediction.curvature.operators import ggn_operator as ggn_operator
from hptransfer.prediction.curvature.operators import gradients as gradients
from hptransfer.prediction.curvature.operators import hessian_operator as hessian_operator
from hptransfer.prediction.curvature.parameters import ParameterSpace as ParameterSpace
from hptransfer.prediction.curvature.preconditioned import Preconditioner as Preconditioner
from hptransfer.prediction.curvature.preconditioned import preconditioner_at_init as preconditioner_at_init
from hptransfer.prediction.curvature.preconditioned import preconditioner_from_state as preconditioner_from_state
