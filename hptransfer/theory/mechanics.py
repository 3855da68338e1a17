"""Solvable models and universal laws that predictions are held against
(docs/theory/solvable.md, edge_of_stability.md)."""

from hptransfer.mechanics.catapult import CatapultRun as CatapultRun
from hptransfer.mechanics.catapult import catapult_regime as catapult_regime
from hptransfer.mechanics.catapult import simulate_catapult as simulate_catapult
from hptransfer.mechanics.edge_of_stability import EdgeTrace as EdgeTrace
from hptransfer.mechanics.edge_of_stability import probe_edge as probe_edge
from hptransfer.mechanics.eigenlearning import Eigenlearning as Eigenlearning
from hptransfer.mechanics.eigenlearning import eigenlearning as eigenlearning
from hptransfer.mechanics.eigenlearning import spectrum_of as spectrum_of
from hptransfer.mechanics.power_law import loss_after as loss_after
from hptransfer.mechanics.power_law import sample_exponent as sample_exponent
from hptransfer.mechanics.power_law import step_exponent as step_exponent
from hptransfer.mechanics.programme.check import Strand as Strand
from hptransfer.mechanics.programme.run import STRANDS as STRANDS
from hptransfer.mechanics.programme.run import run_strand as run_strand
from hptransfer.mechanics.saxe import LinearModes as LinearModes
from hptransfer.mechanics.saxe import deep_strength as deep_strength
from hptransfer.mechanics.saxe import learning_time as learning_time
from hptransfer.mechanics.saxe import linear_loss_curve as linear_loss_curve
from hptransfer.mechanics.saxe import linear_modes as linear_modes
from hptransfer.mechanics.saxe import mode_sharpness as mode_sharpness
from hptransfer.mechanics.saxe import two_layer_strength as two_layer_strength
