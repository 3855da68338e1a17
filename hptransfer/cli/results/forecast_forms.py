"""A forecast in every form of output: a record a step of its derivation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hptransfer.cli.results.formats import Forms

if TYPE_CHECKING:
    from hptransfer.prediction.forecast.forecast import Forecast
    from hptransfer.prediction.provenance import Prediction


def forecast_forms(forecast: Forecast) -> Forms:
    """The steps that give a number, in order; what they rest on stands beside each."""
    numbers = [(step.title, step.prediction) for step in forecast.steps if step.prediction is not None]
    records = [{"step": title, **_record(prediction)} for title, prediction in numbers]
    head = ("step", "value", "interval", "law", "source")
    cells = [head, *(_cells(title, prediction) for title, prediction in numbers)]
    return Forms(
        text=str(forecast), data=forecast.to_json, records=records, cells=cells, notes=tuple(forecast.headline)
    )


def _record(prediction: Prediction) -> dict[str, object]:
    return {
        "quantity": prediction.name,
        "value": float(prediction.value),
        "low": prediction.low,
        "high": prediction.high,
        "unit": prediction.unit,
        "law": prediction.law,
        "source": prediction.source,
    }


def _cells(title: str, prediction: Prediction) -> tuple[str, ...]:
    low, high = prediction.low, prediction.high
    interval = "none" if low is None or high is None else f"{low:.3g} to {high:.3g}"
    return title, f"{prediction.value:.4g}", interval, prediction.law, prediction.source
