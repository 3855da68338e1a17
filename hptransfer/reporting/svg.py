"""Matplotlib figures as SVG that takes its colours from the page: stand-in colours become CSS variables."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that nothing else uses; each becomes a CSS variable in the finished SVG.
INK, MUTED, GRID, PAPER = "#0a0101", "#0a0102", "#0a0103", "#0a0104"
SCHEME, CONTROL, GOOD, BAD = "#0a0201", "#0a0202", "#0a0203", "#0a0204"
MAX_SERIES = 16

_FIXED = {
    INK: ("--ink", "#1b1f24", "#e8eaed"),
    MUTED: ("--muted", "#5b6470", "#a3acb8"),
    GRID: ("--grid", "#e3e6ea", "#30363d"),
    PAPER: ("--paper", "#ffffff", "#12161b"),
    SCHEME: ("--scheme", "#0072b2", "#56b4e9"),
    CONTROL: ("--control", "#c25700", "#f0a04b"),
    GOOD: ("--good", "#00775b", "#3ec9a0"),
    BAD: ("--bad", "#b3261e", "#ff8a80"),
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.solid_capstyle": "round",
}


def series(index: int) -> str:
    """Stand-in colour of the index-th of an ordered family of lines (narrow to wide)."""
    return f"#0a03{min(index, MAX_SERIES - 1):02x}"


def palette(count: int) -> dict[str, tuple[str, str]]:
    """CSS variable -> (colour on a light page, colour on a dark page).

    The series are viridis without the end that would vanish into the page: ordered by lightness, so that they stay
    apart for every kind of colour vision and in print.
    """
    viridis = matplotlib.colormaps["viridis"]
    steps = [i / max(1, count - 1) for i in range(count)]
    ordered = {
        f"--series-{i}": (_hex(viridis(0.02 + 0.74 * s)), _hex(viridis(0.32 + 0.66 * s))) for i, s in enumerate(steps)
    }
    return {name: (light, dark) for name, light, dark in _FIXED.values()} | ordered


@contextmanager
def drawing(
    width: float, height: float, columns: int = 1, *, share_y: bool = False
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `width` x `height` inches with axes side by side, in the house style."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, sharey=share_y, squeeze=False)
        yield figure, list(axes[0])


def inline(figure: Figure, name: str, description: str) -> str:
    """An <svg> element for a page that defines the palette's variables; scales to its container's width.

    name: unique on the page, it prefixes every id. description: what a reader who cannot see the figure is told.
    """
    style: Any = _STYLE | {"svg.hashsalt": name}
    prefix = identifier(name)
    with matplotlib.rc_context(style):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\s(xmlns(:xlink)?)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"#0a0[0-9a-f]{3}", lambda match: f"var({_variable(match[0])})", text)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r"(font-family:|font: [^;\"']*?px) [^;\"]*", r"\1 var(--font)", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None  # matplotlib always writes one
    label = html.escape(description)
    shown = f'viewBox="0 0 {size[1]} {size[2]}" style="max-width:{float(size[1]) * 1.45:.0f}px"'
    head = f'<svg role="img" aria-label="{label}" {shown}>'
    return head + text[text.index(">") + 1 :].strip()


def identifier(name: str) -> str:
    """A name as part of an id: what is no letter, digit or dash becomes its code, so that no two names meet."""
    return re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match[0]):x}_", name)


def standalone(svg: str, count: int) -> str:
    """An inline SVG as a file of its own, which follows the viewer's light or dark setting."""
    light = "".join(f"{name}:{pair[0]};" for name, pair in palette(count).items())
    dark = "".join(f"{name}:{pair[1]};" for name, pair in palette(count).items())
    rules = f"svg{{{light}--font:system-ui,sans-serif;stroke-linejoin:round}}"
    rules += f"@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    head = svg.index(">")
    return f'{svg[:head]} xmlns="http://www.w3.org/2000/svg"><style>{rules}</style>{svg[head + 1 :]}\n'


def _variable(colour: str) -> str:
    """The CSS variable that a stand-in colour becomes."""
    return _FIXED[colour][0] if colour in _FIXED else f"--series-{int(colour[-2:], 16)}"


def _hex(rgba: tuple[float, float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgba[:3])
