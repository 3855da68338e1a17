"""Published laws for the best and the critical batch size, as data, all in tokens; see lr_laws.py for the symbols."""

from __future__ import annotations

from hptransfer.prediction.laws.lr_laws import LR_LAWS, PAPER, Law, power

_RECALLED = "recalled; exponent as quoted in public sources, constant not verified"

BATCH_LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            "step-law",
            "batch",
            ".5807 D^.5709",
            ("tokens",),
            power(0.5807, tokens=0.5709),
            "arXiv:2503.04715",
            "rounds to the published .58, .571",
            LR_LAWS["step-law"].recipe,
            domain=LR_LAWS["step-law"].domain,
        ),
        Law(
            "deepseek",
            "batch",
            ".2920 C^.3271",
            ("flop",),
            power(0.2920, flop=0.3271),
            "arXiv:2401.02954 eq. 1",
            PAPER,
            LR_LAWS["deepseek"].recipe,
            domain=LR_LAWS["deepseek"].domain,
        ),
        Law(
            "porian",
            "batch",
            ".7576 N^.703",
            ("params",),
            power(0.7576, params=0.703),
            "arXiv:2406.19146",
            PAPER,
            LR_LAWS["porian"].recipe,
            domain=LR_LAWS["porian"].domain,
        ),
        Law(
            "moonlight",
            "batch",
            ".0065 C^.4138",
            ("flop",),
            power(0.0065, flop=0.4138),
            "arXiv:2502.16982",
            "as quoted in one public source",
            LR_LAWS["moonlight"].recipe,
        ),
        Law(
            "minicpm",
            "batch",
            "1.21e9 / L^6.24",
            ("loss",),
            power(1.21e9, loss=-6.24),
            "arXiv:2404.06395 sec. 3",
            PAPER,
            "MiniCPM on C4, WSD",
        ),
        Law(
            "kaplan-critical",
            "batch",
            "2e8 / L^4.76",
            ("loss",),
            power(2e8, loss=-1 / 0.21),
            "arXiv:2001.08361 eq. 1.4",
            PAPER,
            "critical batch, not the best one; GPT-2-like, Adam",
        ),
        Law(
            "power-lines",
            "batch",
            "2048 x .0306 D^.383",
            ("tokens",),
            power(2048 * 0.0306, tokens=0.383),
            "arXiv:2505.13738",
            _RECALLED,
            "muP, AdamW, linear decay to zero, sequences of 2048",
        ),
        Law(
            "power-lines-critical",
            "batch",
            "2048 x .0471 D^.462",
            ("tokens",),
            power(2048 * 0.0471, tokens=0.462),
            "arXiv:2505.13738",
            _RECALLED,
            "critical batch, not the best one; as power-lines",
        ),
    )
}
"""Batch-size laws by name, all in tokens."""
