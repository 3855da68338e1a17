"""mechanics.html: every strand's question, its numbers, and a picture of theory against simulation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from hptransfer.core.files import write_whole
from hptransfer.mechanics.programme.check import Curve, Strand
from hptransfer.reporting import svg

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Learning mechanics</title>
{{ style | safe }}
</head>
<body>
<main>
<header>
  <p class="kicker">hptransfer mechanics</p>
  <h1>{{ passed }} of {{ total }} numbers of {{ strands | length }} theories hold in simulation.</h1>
  <p>Every number is measured on a small world that is built and trained here. A theory whose constant were 10% off would
  fail.</p>
</header>
{% for strand in strands %}
<section>
<h2>{{ strand.question }}</h2>
<p>{{ strand.source }}. {{ "%.1f" | format(strand.seconds) }} s.</p>
<div class="panels"><figure>{{ figures[loop.index0] | safe }}</figure></div>
<div class="scroll"><table>
<thead><tr><th>number</th><th class="n">theory</th><th class="n">measured</th><th class="n">error</th><th class="n">allowed</th><th></th></tr></thead>
<tbody>
{% for check in strand.checks %}
<tr><td>{{ check.quantity }}</td><td class="n">{{ "%.4g" | format(check.predicted) }}</td><td class="n">{{ "%.4g" | format(check.measured) }}</td><td class="n">{{ "%.2f%%" | format(100 * check.error) }}</td><td class="n">{{ "%.0f%%" | format(100 * check.tolerance) }}</td><td class="{{ 'good' if check.ok else 'bad' }}">{{ "ok" if check.ok else "FAIL" }}</td></tr>
{% endfor %}
</tbody></table></div>
<p><small>Allowed because: {{ strand.reason }}.</small></p>
</section>
{% endfor %}
</main>
</body>
</html>
"""  # noqa: E501


def curve_figure(curve: Curve, name: str) -> str:
    """Theory as a line, simulation as points."""
    with svg.drawing(5.4, 3.4) as (figure, (ax,)):
        ax.plot(curve.x, curve.predicted, color=svg.SCHEME, lw=1.8, label="theory")
        ax.plot(curve.x, curve.measured, color=svg.GOOD, lw=0, marker="o", ms=4, label="simulation")
        if curve.log:
            ax.set_xscale("log")
            ax.set_yscale("log")
        ax.set_xlabel(curve.xlabel)
        ax.set_ylabel(curve.ylabel)
        ax.legend(loc="best", fontsize=9)
        return svg.inline(figure, name, f"{curve.ylabel} over {curve.xlabel}, theory and simulation.")


def write_mechanics_page(strands: Sequence[Strand], path: str | os.PathLike[str]) -> Path:
    """Write the page and return its path. Raises UsageError where it cannot be written."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    report = files("hptransfer.reporting").joinpath("template.html").read_text("utf-8")
    style = report[report.index("<style>") : report.index("</style>") + len("</style>")]
    checks = [check for strand in strands for check in strand.checks]
    values = {
        "strands": strands,
        "figures": [curve_figure(strand.curve, strand.name) for strand in strands],
        "passed": sum(check.ok for check in checks),
        "total": len(checks),
        "style": environment.from_string(style).render(colours=svg.palette(1)),
    }
    return write_whole(path, environment.from_string(TEMPLATE).render(values))
