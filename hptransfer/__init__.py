"""hptransfer: hyperparameter transfer for the PyTorch model you already have."""

from hptransfer.core.recipe import Recipe as Recipe
from hptransfer.core.recipe import Scale as Scale

__version__ = "0.1.0"
