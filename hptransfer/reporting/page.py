"""What all pages share: the templates' environment, the look, the script, and real minus signs."""

# pyright: strict
from __future__ import annotations

import base64
import hashlib
import math
from importlib.resources import files
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hptransfer.reporting import words
from hptransfer.reporting.report.info import superscript
from hptransfer.reporting.svg import minus, palette

PAGES = "pages"
"""The folder of templates, style and script."""


def render_page(template: str, *, series: int = 1, **values: object) -> str:
    """A page from its template, whole in itself: its style and script are inside, and it may load nothing else.

    template: a file in `pages`. series: how many sizes have a colour of their own.
    """
    environment = Environment(
        loader=PackageLoader("hptransfer.reporting", PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"number": number, "signed": signed, "lr": rate, "minus": minus, "prose": prose, "power": power}
    cast(Any, environment).filters.update(filters)  # jinja2 leaves this dict untyped
    script = files("hptransfer.reporting").joinpath(PAGES, "page.js").read_text("utf-8")
    seal = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        colours=palette(series), script=Markup(script), seal=seal, words=words, **values
    )


def prose(text: str) -> str:
    """A sentence of a verdict: schemes as papers spell them, real minus signs."""
    return minus(words.spelled(text).replace("+-", "±"))


def number(value: float) -> str:
    """Three significant digits, or "unknown"."""
    return minus(words.number(value))


def signed(value: float) -> str:
    """Sign and three significant digits, or "unknown"."""
    return minus(words.signed(value))


def rate(value: float) -> str:
    """A learning rate: as a power of two where it is one."""
    return superscript(math.log2(value)) if value > 0 else f"{value:g}"


def power(exponent: float) -> Markup:
    """2 to an exponent with two decimals, as HTML; read aloud as "2 to the ..."."""
    return Markup('2<span class="heard"> to the </span><sup>{}</sup>').format(minus(f"{exponent:.2f}"))
