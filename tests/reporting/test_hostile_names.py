"""Names in someone else's files are text wherever they appear: no tag, no attribute, no formula."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from hptransfer.reporting.report import figures
from hptransfer.reporting.report.html import render_report
from hptransfer.reporting.svg import identifier
from tests.cases.reporting import plan_json, result

EVIL = ['m"><script>alert(1)</script>', "m' onload='alert(1)", "<img src=x>", "a$b_{", "é\u202e&", "</title></style>"]
EVIL += ["a--b", '" onload="alert(1)', "-->", "]]>", "&lt;"]


class Seen(HTMLParser):
    """The tags and attributes that a browser would see, and the text."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def named(evil: str, **changes):
    """A result whose every name is `evil`."""
    swap = {"mup": evil}
    whole = result()
    renamed = {
        field: tuple(dataclasses.replace(x, scheme=swap.get(x.scheme, x.scheme)) for x in getattr(whole, field))
        for field in ("optima", "drifts", "regrets", "larger_is_better", "runs")
    }
    row = plan_json()["rows"][0] | {"name": evil, "role": evil, "why": [evil]}
    hook = {"module": evil, "where": evil, "factor": 2.0, "why": evil}
    plan = plan_json() | {"rows": [row, row], "notes": [evil], "hooks": [hook]}
    texts = {"recipe": evil, "scheme": evil, "command": evil, "rule": evil, "reasons": (evil,), "notes": (evil,)}
    environment = {evil: evil}
    return result(**renamed, **texts, plan=plan, environment=environment, **changes)


@pytest.fixture(scope="module")
def before() -> Seen:
    """The page of harmless names."""
    seen = Seen()
    seen.feed(render_report(result()))
    return seen


@pytest.mark.parametrize("evil", EVIL)
def test_no_name_becomes_a_tag_an_attribute_or_a_formula(evil, before):
    page, after = render_report(named(evil)), Seen()
    after.feed(page)
    assert after.tags == before.tags and after.attributes == before.attributes
    assert evil in after.text
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert identifiers and all(re.fullmatch(r"[\w.-]+", i) for i in identifiers)
    assert len(set(identifiers)) == len(identifiers)
    drawn = figures.overview(named(evil))
    assert "<script" not in drawn and "<img" not in drawn


def test_no_two_names_meet_in_one_id():
    names = ["a b", "a_b", "a-b", "a.b", "a_20_b", "a__b", "", "_"]
    assert len({identifier(name) for name in names}) == len(names)
