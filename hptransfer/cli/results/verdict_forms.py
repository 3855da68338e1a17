"""A verdict in every form of output, for the commands that end in one on the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hptransfer.cli.results.formats import Forms

if TYPE_CHECKING:
    from hptransfer.validation.records.results import TransferResult


def verdict_forms(result: TransferResult) -> Forms:
    """A record an optimum: of every scheme at every size. log2_lr is of a factor where there is a setting."""
    from hptransfer.reporting.words import beside, cells, table

    records = [
        {
            result.axis: optimum.size,
            "scheme": optimum.scheme,
            **({} if result.swept.is_rate else {"setting": result.setting}),
            "log2_lr": optimum.log2_lr,
            "log2_lr_low": optimum.low,
            "log2_lr_high": optimum.high,
            "loss": optimum.loss,
            "seeds": optimum.seeds,
            "at_edge": optimum.at_edge,
            "missing": optimum.missing,
            "verdict": result.verdict if optimum.scheme == result.scheme else "",
        }
        for optimum in result.optima
    ]
    notes = [line for line in beside(result) if line]
    return Forms(text=table(result), data=result.without_runs, records=records, cells=cells(result), notes=notes)
