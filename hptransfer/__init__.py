"""hptransfer: hyperparameter transfer for the PyTorch model you already have."""

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

__version__ = "0.1.0"
