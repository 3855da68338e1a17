"""hptransfer: hyperparameter transfer for the PyTorch model you already have.

Plans and optimizer groups are imported at once; what trains, predicts or reports is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from hptransfer._version import __version__ as __version__
from hptransfer.core.errors import UsageError as UsageError
from hptransfer.core.geometry import register_optimizer as register_optimizer
from hptransfer.core.recipe import Recipe as Recipe
from hptransfer.core.recipe import Scale as Scale
from hptransfer.core.recipe import load_recipe as load_recipe
from hptransfer.core.roles import Role as Role
from hptransfer.parametrization.make import make_plan as make_plan
from hptransfer.parametrization.optim import max_lrs as max_lrs
from hptransfer.parametrization.optim import param_groups as param_groups
from hptransfer.parametrization.optim import set_lr as set_lr
from hptransfer.parametrization.options import Options as Options
from hptransfer.parametrization.options import Tuned as Tuned
from hptransfer.parametrization.plan import Plan as Plan
from hptransfer.parametrization.plan import verify_fingerprint as verify_fingerprint
from hptransfer.parametrization.rewrite import parametrize_ as parametrize_

if TYPE_CHECKING:
    from hptransfer.parametrization.checkpoint import attach as attach
    from hptransfer.parametrization.checkpoint import plan_of as plan_of
    from hptransfer.parametrization.checkpoint import plan_state as plan_state
    from hptransfer.parametrization.coord import coord_check as coord_check
    from hptransfer.parametrization.coord_report import CoordReport as CoordReport
    from hptransfer.parametrization.ecosystem import PlanTrainer as PlanTrainer
    from hptransfer.parametrization.equilibrium import equilibrium_check as equilibrium_check
    from hptransfer.parametrization.equilibrium_report import EquilibriumReport as EquilibriumReport
    from hptransfer.parametrization.interop import mup_plan as mup_plan
    from hptransfer.parametrization.interop import read_base_shapes as read_base_shapes
    from hptransfer.parametrization.interop import write_base_shapes as write_base_shapes
    from hptransfer.parametrization.optimizers import build_optimizers as build_optimizers
    from hptransfer.parametrization.oracle import verify_plan as verify_plan
    from hptransfer.parametrization.oracle_report import OracleReport as OracleReport
    from hptransfer.prediction.forecast import Forecast as Forecast
    from hptransfer.prediction.forecast import Rules as Rules
    from hptransfer.reporting.html import write_figure as write_figure
    from hptransfer.reporting.html import write_report as write_report
    from hptransfer.validation.predict import predict as predict
    from hptransfer.validation.results import TransferResult as TransferResult
    from hptransfer.validation.study import StudyResult as StudyResult
    from hptransfer.validation.study import study as study
    from hptransfer.validation.sweep import run_sweep as run_sweep
    from hptransfer.validation.transfer import transfer_check as transfer_check

_LAZY = {
    "attach": "parametrization.checkpoint",
    "plan_of": "parametrization.checkpoint",
    "plan_state": "parametrization.checkpoint",
    "coord_check": "parametrization.coord",
    "CoordReport": "parametrization.coord_report",
    "PlanTrainer": "parametrization.ecosystem",
    "equilibrium_check": "parametrization.equilibrium",
    "EquilibriumReport": "parametrization.equilibrium_report",
    "mup_plan": "parametrization.interop",
    "read_base_shapes": "parametrization.interop",
    "write_base_shapes": "parametrization.interop",
    "build_optimizers": "parametrization.optimizers",
    "verify_plan": "parametrization.oracle",
    "OracleReport": "parametrization.oracle_report",
    "Forecast": "prediction.forecast",
    "Rules": "prediction.forecast",
    "write_figure": "reporting.html",
    "write_report": "reporting.html",
    "predict": "validation.predict",
    "TransferResult": "validation.results",
    "study": "validation.study",
    "StudyResult": "validation.study",
    "run_sweep": "validation.sweep",
    "transfer_check": "validation.transfer",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'hptransfer' has no attribute {name!r}")
    return getattr(import_module(f"hptransfer.{_LAZY[name]}"), name)
