"""hptransfer: hyperparameter transfer for the PyTorch model you already have.

Every public name is imported when it is first used, and so is `hptransfer.theory`: the laws, kernels and solvable
models that predictions rest on. `import hptransfer` itself imports neither torch nor anything else of size.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from hptransfer._version import __version__

if TYPE_CHECKING:
    from hptransfer import theory
    from hptransfer.checks.coord.check import coord_check
    from hptransfer.checks.coord.report import CoordReport
    from hptransfer.checks.equilibrium.check import equilibrium_check
    from hptransfer.checks.equilibrium.report import EquilibriumReport
    from hptransfer.checks.oracle.report import OracleReport
    from hptransfer.checks.oracle.verify import verify_plan
    from hptransfer.checks.step import StepAudit, audit_step
    from hptransfer.checks.verified import make_plan
    from hptransfer.core.declared import register_optimizer
    from hptransfer.core.errors import UsageError
    from hptransfer.core.roles import Role
    from hptransfer.core.training.recipe import Recipe, load_recipe
    from hptransfer.core.training.scale import Scale
    from hptransfer.graph.ops import register_op
    from hptransfer.monitoring.monitor import Monitor
    from hptransfer.parametrization.apply.checkpoint import attach, plan_of, plan_state
    from hptransfer.parametrization.apply.existing import apply_plan
    from hptransfer.parametrization.apply.groups import max_lrs, param_groups, set_lr
    from hptransfer.parametrization.apply.optimizers import build_optimizers
    from hptransfer.parametrization.apply.rewrite import parametrize_
    from hptransfer.parametrization.apply.trainer import PlanTrainer
    from hptransfer.parametrization.interop.mup import mup_plan, read_base_shapes, write_base_shapes
    from hptransfer.parametrization.options import Options, Tuned
    from hptransfer.parametrization.plan import Plan, verify_fingerprint
    from hptransfer.prediction.forecast.forecast import Forecast, Rules
    from hptransfer.prediction.provenance import Prediction
    from hptransfer.reporting.report.html import write_figure, write_report
    from hptransfer.validation.forecasts.predict import predict
    from hptransfer.validation.records.results import TransferResult
    from hptransfer.validation.search.study import StudyResult, study
    from hptransfer.validation.search.zoom_sampler import ZoomSampler
    from hptransfer.validation.settings.search import tune
    from hptransfer.validation.settings.tuned import TunedSettings, tuned_factors
    from hptransfer.validation.sweep import run_sweep
    from hptransfer.validation.tables.judge import judge_table
    from hptransfer.validation.transfer import transfer_check

_LAZY = {
    "coord_check": "checks.coord.check",
    "CoordReport": "checks.coord.report",
    "equilibrium_check": "checks.equilibrium.check",
    "EquilibriumReport": "checks.equilibrium.report",
    "OracleReport": "checks.oracle.report",
    "verify_plan": "checks.oracle.verify",
    "audit_step": "checks.step",
    "StepAudit": "checks.step",
    "Monitor": "monitoring.monitor",
    "make_plan": "checks.verified",
    "register_optimizer": "core.declared",
    "UsageError": "core.errors",
    "Role": "core.roles",
    "load_recipe": "core.training.recipe",
    "Recipe": "core.training.recipe",
    "Scale": "core.training.scale",
    "register_op": "graph.ops",
    "attach": "parametrization.apply.checkpoint",
    "plan_of": "parametrization.apply.checkpoint",
    "plan_state": "parametrization.apply.checkpoint",
    "apply_plan": "parametrization.apply.existing",
    "max_lrs": "parametrization.apply.groups",
    "param_groups": "parametrization.apply.groups",
    "set_lr": "parametrization.apply.groups",
    "build_optimizers": "parametrization.apply.optimizers",
    "parametrize_": "parametrization.apply.rewrite",
    "PlanTrainer": "parametrization.apply.trainer",
    "mup_plan": "parametrization.interop.mup",
    "read_base_shapes": "parametrization.interop.mup",
    "write_base_shapes": "parametrization.interop.mup",
    "Options": "parametrization.options",
    "Tuned": "parametrization.options",
    "Plan": "parametrization.plan",
    "verify_fingerprint": "parametrization.plan",
    "Forecast": "prediction.forecast.forecast",
    "Rules": "prediction.forecast.forecast",
    "Prediction": "prediction.provenance",
    "write_figure": "reporting.report.html",
    "write_report": "reporting.report.html",
    "predict": "validation.forecasts.predict",
    "TransferResult": "validation.records.results",
    "study": "validation.search.study",
    "StudyResult": "validation.search.study",
    "ZoomSampler": "validation.search.zoom_sampler",
    "tune": "validation.settings.search",
    "TunedSettings": "validation.settings.tuned",
    "tuned_factors": "validation.settings.tuned",
    "run_sweep": "validation.sweep",
    "judge_table": "validation.tables.judge",
    "transfer_check": "validation.transfer",
}
"""Where a name comes from: name -> module within the package."""

__all__ = [
    "CoordReport",
    "EquilibriumReport",
    "Forecast",
    "Monitor",
    "Options",
    "OracleReport",
    "Plan",
    "PlanTrainer",
    "Prediction",
    "Recipe",
    "Role",
    "Rules",
    "Scale",
    "StepAudit",
    "StudyResult",
    "TransferResult",
    "Tuned",
    "TunedSettings",
    "UsageError",
    "ZoomSampler",
    "__version__",
    "apply_plan",
    "attach",
    "audit_step",
    "build_optimizers",
    "coord_check",
    "equilibrium_check",
    "judge_table",
    "load_recipe",
    "make_plan",
    "max_lrs",
    "mup_plan",
    "param_groups",
    "parametrize_",
    "plan_of",
    "plan_state",
    "predict",
    "read_base_shapes",
    "register_op",
    "register_optimizer",
    "run_sweep",
    "set_lr",
    "study",
    "theory",
    "transfer_check",
    "tune",
    "tuned_factors",
    "verify_fingerprint",
    "verify_plan",
    "write_base_shapes",
    "write_figure",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name == "theory":
        return import_module("hptransfer.theory")
    if name not in _LAZY:
        raise AttributeError(f"module 'hptransfer' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"hptransfer.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
