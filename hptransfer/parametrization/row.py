"""One row of a plan: a parameter, its role and its multipliers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One parameter. Every multiplier is target / base: all are 1 at the base's own size unless Options ask otherwise.

    name, shape: of the target's parameter; role: its kind; fan_in, fan_out: sizes; base: the base parameter it is
    measured against.
    init_std: root mean square that the target's initial values get (None: the model's own is kept, or the base was on
    meta and could not be measured); init_mult: init_std / the base's.
    lr_mult, wd_mult, eps_mult: on the optimizer's learning rate, weight decay and eps.
    fwd_mult: multiplier in the forward pass, 1 when absorbed into init and learning rate.
    scale_mult, grad_mult: ratios of the weight's and of its gradient's natural scale; decay and floors follow from them
    (scale_mult is init_mult, also where the values start at zero). tuned_init: the part of init_mult that was tuned.
    optimizer: the class that should train it; base_shape: of the base parameter.
    held: the forward multipliers of activations that this parameter absorbed (attention's, a tied readout's): the
    activation it makes is that much larger than without them.
    host: of a bias, the weight that it stands beside: it is initialised by the same law.
    kept: the target's present values stay as they are (pretrained weights).
    why: the reasons, in order of application.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    fan_in: int
    fan_out: int
    base: str
    init_std: float | None
    init_mult: float
    lr_mult: float
    wd_mult: float
    eps_mult: float
    fwd_mult: float = 1.0
    optimizer: str = ""
    base_shape: tuple[int, ...] = ()
    m_in: float = 1.0
    m_out: float = 1.0
    scale_mult: float = 1.0
    grad_mult: float = 1.0
    held: float = 1.0
    host: str = ""
    tuned_init: float = 1.0
    kept: bool = False
    why: tuple[str, ...] = ()
