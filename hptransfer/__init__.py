"""hptransfer: hyperparameter transfer for the PyTorch model you already have.

Plans and optimizer groups are imported at once; what trains, predicts or reports is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from hptransfer._version import __version__ as __version__
from hptransfer.checks.verified import make_plan as make_plan
from hptransfer.core.errors import UsageError as UsageError
from hptransfer.core.geometry import register_optimizer as register_optimizer
from hptransfer.core.recipe import Recipe as Recipe
from hptransfer.core.recipe import Scale as Scale
from hptransfer.core.recipe import load_recipe as load_recipe
from hptransfer.core.roles import Role as Role
from hptransfer.parametrization.apply.groups import max_lrs as max_lrs
from hptransfer.parametrization.apply.groups import param_groups as param_groups
from hptransfer.parametrization.apply.groups import set_lr as set_lr
from hptransfer.parametrization.apply.rewrite import parametrize_ as parametrize_
from hptransfer.parametrization.options import Options as Options
from hptransfer.parametrization.options import Tuned as Tuned
from hptransfer.parametrization.plan import Plan as Plan
from hptransfer.parametrization.plan import verify_fingerprint as verify_fingerprint

if TYPE_CHECKING:
    from hptransfer.checks.coord.check import coord_check as coord_check
    from hptransfer.checks.coord.report import CoordReport as CoordReport
    from hptransfer.checks.equilibrium.check import equilibrium_check as equilibrium_check
    from hptransfer.checks.equilibrium.report import EquilibriumReport as EquilibriumReport
    from hptransfer.checks.oracle.report import OracleReport as OracleReport
    from hptransfer.checks.oracle.verify import verify_plan as verify_plan
    from hptransfer.parametrization.apply.checkpoint import attach as attach
    from hptransfer.parametrization.apply.checkpoint import plan_of as plan_of
    from hptransfer.parametrization.apply.checkpoint import plan_state as plan_state
    from hptransfer.parametrization.apply.optimizers import build_optimizers as build_optimizers
    from hptransfer.parametrization.apply.trainer import PlanTrainer as PlanTrainer
    from hptransfer.parametrization.interop.mup import mup_plan as mup_plan
    from hptransfer.parametrization.interop.mup import read_base_shapes as read_base_shapes
    from hptransfer.parametrization.interop.mup import write_base_shapes as write_base_shapes
    from hptransfer.prediction.forecast.forecast import Forecast as Forecast
    from hptransfer.prediction.forecast.forecast import Rules as Rules
    from hptransfer.reporting.html import write_figure as write_figure
    from hptransfer.reporting.html import write_report as write_report
    from hptransfer.validation.predict import predict as predict
    from hptransfer.validation.records.results import TransferResult as TransferResult
    from hptransfer.validation.search.study import StudyResult as StudyResult
    from hptransfer.validation.search.study import study as study
    from hptransfer.validation.sweep import run_sweep as run_sweep
    from hptransfer.validation.transfer import transfer_check as transfer_check

_LAZY = {
    "attach": "parametrization.apply.checkpoint",
    "plan_of": "parametrization.apply.checkpoint",
    "plan_state": "parametrization.apply.checkpoint",
    "coord_check": "checks.coord.check",
    "CoordReport": "checks.coord.report",
    "PlanTrainer": "parametrization.apply.trainer",
    "equilibrium_check": "checks.equilibrium.check",
    "EquilibriumReport": "checks.equilibrium.report",
    "mup_plan": "parametrization.interop.mup",
    "read_base_shapes": "parametrization.interop.mup",
    "write_base_shapes": "parametrization.interop.mup",
    "build_optimizers": "parametrization.apply.optimizers",
    "verify_plan": "checks.oracle.verify",
    "OracleReport": "checks.oracle.report",
    "Forecast": "prediction.forecast.forecast",
    "Rules": "prediction.forecast.forecast",
    "write_figure": "reporting.html",
    "write_report": "reporting.html",
    "predict": "validation.predict",
    "TransferResult": "validation.records.results",
    "study": "validation.search.study",
    "StudyResult": "validation.search.study",
    "run_sweep": "validation.sweep",
    "transfer_check": "validation.transfer",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'hptransfer' has no attribute {name!r}")
    return getattr(import_module(f"hptransfer.{_LAZY[name]}"), name)
