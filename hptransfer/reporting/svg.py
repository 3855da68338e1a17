"""Matplotlib figures as SVG that takes its colours from the page: stand-in colours become CSS variables."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hptransfer.reporting.numerals import raised

# Colours that nothing else uses; each becomes a CSS variable in the finished SVG.
INK, MUTED, GRID, PAPER = "#0a0101", "#0a0102", "#0a0103", "#0a0104"
SCHEME, CONTROL, GOOD, BAD = "#0a0201", "#0a0202", "#0a0203", "#0a0204"
MAX_SERIES = 16

_FIXED = {
    INK: ("--ink", "#1b1f24", "#e8eaed"),
    MUTED: ("--muted", "#5b6470", "#a3acb8"),
    GRID: ("--grid", "#e3e6ea", "#30363d"),
    PAPER: ("--paper", "#ffffff", "#12161b"),
    SCHEME: ("--scheme", "#007fc6", "#007fc6"),
    CONTROL: ("--control", "#c96200", "#c96200"),
    GOOD: ("--good", "#008f6b", "#008f6b"),
    BAD: ("--bad", "#dc4038", "#dc4038"),
}
"""Stand-in -> (CSS variable, on a light page, on a dark page). What stands for data is the same on both."""
_PLASMA = matplotlib.colormaps["plasma"]
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
    """CSS variable -> (colour on a light page, colour on a dark page); those of data do not differ.

    The series run from blue to orange, which every kind of colour vision tells apart, and from dark to light, within
    the luminances that stand out by 3 : 1 from white paper and from dark (WCAG 2.2, 1.4.11).
    """
    steps = [i / max(1, count - 1) for i in range(count)]
    ordered = {f"--series-{i}": (colour := _series_colour(s), colour) for i, s in enumerate(steps)}
    return {name: (light, dark) for name, light, dark in _FIXED.values()} | ordered


def _series_colour(step: float) -> str:
    """plasma's hue at `step` in 0..1, mixed with white or black to a luminance (ITU-R BT.709) of 0.135 to 0.285."""
    wanted = 0.135 + 0.15 * step
    linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in _PLASMA(0.06 + 0.76 * step)[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    white = max(0.0, (wanted - luminance) / (1.0 - luminance))
    mixed = [c + white * (1.0 - c) if white else c * wanted / luminance for c in linear]
    return _hex([(12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055) for c in mixed])


@contextmanager
def drawing(
    width: float, height: float, columns: int = 1, *, share_y: bool = False
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `width` x `height` inches with axes side by side, in the house style."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, sharey=share_y, squeeze=False)
        yield figure, list(axes[0])


def inline(figure: Figure, name: str, description: str, *, hover: Mapping[str, Sequence[str]] | None = None) -> str:
    """An <svg> element for a page that defines the palette's variables; scales to its container's width.

    name: unique on the page, it prefixes every id. description: what a reader who cannot see the figure is told.
    hover: an artist's gid -> what a pointer over it is told: a text per point of a scatter, or one text for a line.
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
    for gid, texts in (hover or {}).items():
        text = _with_titles(text, gid, texts)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"#0a0[0-9a-f]{3}", lambda match: f"var({_variable(match[0])})", text)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r"(font-family:|font: [^;\"']*?px) [^;\"]*", r"\1 var(--font)", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None  # matplotlib always writes one
    label = html.escape(minus(description))
    shown = f'viewBox="0 0 {size[1]} {size[2]}" style="max-width:{float(size[1]) * 1.45:.0f}px"'
    head = f'<svg role="img" aria-label="{label}" {shown}>'
    return head + text[text.index(">") + 1 :].strip()


def _with_titles(text: str, gid: str, texts: Sequence[str]) -> str:
    """The SVG with <title> elements in the group `gid`: one in each of its points, or one for the whole group."""
    start = text.index(f'<g id="{gid}">')
    stop = text.index("</g>", start)
    titles = [f"<title>{html.escape(minus(line))}</title>" for line in texts]
    if len(titles) == 1:
        head = start + len(f'<g id="{gid}">')
        return text[:head] + titles[0] + text[head:]
    points = re.split(r"(<use [^>]*)/>", text[start:stop])
    assert len(points) == 2 * len(titles) + 1, (gid, len(points), len(titles))  # points off the canvas are not drawn
    told = [part if i % 2 == 0 else f"{part}>{titles[i // 2]}</use>" for i, part in enumerate(points)]
    return text[:start] + "".join(told) + text[stop:]


def minus(text: str) -> str:
    """Running text as it is printed: a minus sign before negative numbers, and 8.9e-05 as 8.9×10⁻⁵."""
    powers = re.sub(r"(?<![\w.])(\d[\d.]*)e([+-]\d+)\b", lambda m: f"{m[1]}×10{raised(int(m[2]))}", text)
    return re.sub(r"(?<![\w.\-−])-(?=\.?\d)", "−", powers)


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


def _hex(channels: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)
