"""Published and fitted laws for the learning rate, batch, weight decay and final loss
(docs/theory/lr_laws.md, batch.md, decay.md, loss_laws.md)."""

from hptransfer.prediction.laws.batch_laws import BATCH_LAWS as BATCH_LAWS
from hptransfer.prediction.laws.batch_rules import AdamSettings as AdamSettings
from hptransfer.prediction.laws.batch_rules import TradeOff as TradeOff
from hptransfer.prediction.laws.batch_rules import batch_for_overhead as batch_for_overhead
from hptransfer.prediction.laws.batch_rules import critical_batch as critical_batch
from hptransfer.prediction.laws.batch_rules import lr_at_batch as lr_at_batch
from hptransfer.prediction.laws.batch_rules import sde_adam as sde_adam
from hptransfer.prediction.laws.batch_rules import trade_off as trade_off
from hptransfer.prediction.laws.decay import DecaySettings as DecaySettings
from hptransfer.prediction.laws.decay import power_lines_timescale as power_lines_timescale
from hptransfer.prediction.laws.decay import run_timescale as run_timescale
from hptransfer.prediction.laws.decay import steps_timescale as steps_timescale
from hptransfer.prediction.laws.decay import weight_decay_at as weight_decay_at
from hptransfer.prediction.laws.lr_fit import LrFit as LrFit
from hptransfer.prediction.laws.lr_fit import fit_optima as fit_optima
from hptransfer.prediction.laws.lr_fit import fit_sweep as fit_sweep
from hptransfer.prediction.laws.lr_laws import LR_LAWS as LR_LAWS
from hptransfer.prediction.laws.lr_laws import Law as Law
from hptransfer.prediction.laws.scaling import LOSS_LAWS as LOSS_LAWS
from hptransfer.prediction.laws.scaling import LossLaw as LossLaw
from hptransfer.prediction.laws.scaling import PublishedLaw as PublishedLaw
from hptransfer.prediction.laws.scaling import kaplan as kaplan
from hptransfer.prediction.laws.scaling_fit import LossLawFit as LossLawFit
from hptransfer.prediction.laws.scaling_fit import fit_loss_law as fit_loss_law
from hptransfer.prediction.laws.scaling_line import LossLine as LossLine
from hptransfer.prediction.laws.scaling_line import fit_loss_line as fit_loss_line
from hptransfer.prediction.laws.score import LawScore as LawScore
from hptransfer.prediction.laws.score import Scoreboard as Scoreboard
from hptransfer.prediction.laws.score import score_joint as score_joint
from hptransfer.prediction.laws.score import score_lr_laws as score_lr_laws
from hptransfer.prediction.laws.sweep_table import Cell as Cell
from hptransfer.prediction.laws.sweep_table import SweepTable as SweepTable
from hptransfer.prediction.laws.sweep_table import make_table as make_table
from hptransfer.prediction.laws.sweep_table import read_table as read_table
