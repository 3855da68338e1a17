"""The page is self-contained, says the verdict first, and holds every number of it."""

import base64
import hashlib
import itertools
import math
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.reporting import svg, words
from hptransfer.reporting.report import figures
from hptransfer.reporting.report.html import plan_lines, render_report, write_report
from hptransfer.validation.records.results import TransferResult
from tests.cases.reporting import plan_json, result

VOID = {"meta", "br", "path", "use", "img", "hr", "input", "link"}


class Tree(HTMLParser):
    """Collects what a browser would fetch or run, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self._attributes(attrs)

    def _attributes(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "srcset", "data", "action", "poster"):
                self.targets.append(value)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def shown(page: str) -> str:
    """The page's text: no style, no script, no tags."""
    return unescape(re.sub(r"<[^>]+>", "", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)))


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(result())


@pytest.fixture(scope="module")
def tree(page) -> Tree:
    parsed = Tree()
    parsed.feed(page)
    return parsed


def test_the_page_asks_for_nothing_from_outside(page, tree):
    without_files = re.sub(r'href="data:[^"]*"', "", page)
    assert not re.findall(r"https?:|//[a-z]|@import|url\((?!#)", without_files)
    assert not tree.tags & {"link", "img", "iframe", "object", "embed", "base"}
    assert all(target.startswith(("#", "data:text/csv;", "data:application/json;")) for target in tree.targets)


def test_the_only_script_is_the_one_that_the_page_s_policy_names(page):
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert page.count("<script") == len(scripts) == 1
    seal = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert "default-src 'none'" in page and f"script-src 'sha256-{seal}'" in page
    assert not re.search(r"fetch|XMLHttp|import\(|eval|innerHTML", scripts[0])


def test_elements_are_closed_ids_are_unique_and_references_resolve(page, tree):
    assert tree.open == []
    assert len(tree.ids) == len(set(tree.ids))
    assert {t[1:] for t in tree.targets if t.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(
        tree.ids
    )


def test_every_colour_variable_that_is_used_is_defined_for_light_and_dark(page):
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    _, _, dark = page.partition("@media (prefers-color-scheme: dark)")
    dark = dark[: dark.index("</style>")]
    same_in_both = {"--font", "--mono", "--tone", "--tone-text", "--c"}
    for name in used:
        assert f"{name}:" in page
        assert name in same_in_both or f"{name}:" in dark
    assert "#0a0" not in page  # no stand-in colour is left


def test_the_verdict_comes_first(page):
    body = page[page.index("<body>") :]
    assert (
        body.index(words.headline(result()))
        < body.index(">PASS<")
        < body.index("Use learning rate 0.00897")
        < body.index("hpt.param_groups(model, plan, lr=0.00897)")
        < body.index(words.spelled(result().reasons[0]))
        < body.index("<svg")
    )


def test_every_number_of_the_verdict_appears(page):
    text = shown(page).replace("−", "-")
    found = result()
    for drift in found.drifts:
        assert all(f"{v:+.2f}" in text for v in (drift.octaves, drift.low, drift.high))
    for regret in found.regrets:
        assert all(f"{v:+.3g}" in text for v in (regret.loss, regret.low, regret.high))
    for o in found.optima:
        assert all(f"{v:.2f}" in text for v in (o.log2_lr, o.low, o.high))
        assert all(f"{v:.3g}" in text for v in (o.loss, o.loss_low, o.loss_high))
    for gap in found.loss_gaps:
        assert (
            all(f"{v:+.3g}" in text for v in (gap.mup_minus_sp, gap.low, gap.high)) and f"{gap.tolerance:.3g}" in text
        )
    for value in [*found.sizes, *found.seeds, found.steps, *found.environment.values(), found.rule, found.command]:
        assert str(value) in text
    assert all(text.count(words.spelled(reason)) == 1 for reason in found.reasons)
    assert "180 complete" in text and "12 diverged" in text


def test_text_from_files_is_escaped(page):
    assert "&lt;Table 8&gt; &amp; eq. 3" in page and "ran as &lt;lanes&gt;" in page
    assert "<lanes>" not in page


def test_the_same_result_gives_the_same_page_also_from_its_files(page, tmp_path):
    assert render_report(result()) == page
    result().save(tmp_path)
    assert render_report(TransferResult.load(tmp_path)) == page


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
@pytest.mark.parametrize(
    "changes",
    [
        {"runs": ()},
        {"optima": (), "drifts": (), "regrets": (), "loss_gaps": (), "larger_is_better": ()},
        {"against": None, "loss_gaps": ()},
        {"plan": {}, "environment": {}, "command": "", "notes": ()},
        {"base_size": None},
    ],
    ids=lambda c: "-".join(c),
)
def test_a_result_with_parts_missing_still_renders(verdict, changes):
    page = render_report(result(verdict, **changes))
    assert verdict in page and words.headline(result(verdict)) in page


def test_all_runs_diverged_renders_as_such():
    found = result("FAIL")
    optima = tuple(o.__class__(o.scheme, o.size, *[math.nan] * 3, *[math.inf] * 3, True, 3) for o in found.optima)
    assert "every run diverged" in render_report(result("FAIL", optima=optima))


def test_an_unwritable_path_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(result(), tmp_path / "missing" / "report.html")


def test_plan_rows_of_repeated_blocks_share_a_line():
    row = result().plan["rows"][0]
    blocks = [row | {"name": f"blocks.{i}.weight"} for i in range(3)] + [
        row | {"name": "blocks.3.weight", "lr_mult": 0.5}
    ]
    lines = plan_lines({"rows": blocks})
    assert [(line["pattern"], line["count"]) for line in lines] == [("blocks.*.weight", 3), ("blocks.*.weight", 1)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"readout_init": "own", "forward": "own"}, ["at the base itself all are 1. They"]),
        ({"readout_init": "zero"}, ["all are 1, but for the init of a readout that starts at zero"]),
        ({"forward": "unit"}, ["all are 1, but for those of a unit forward"]),
    ],
)
def test_what_the_plan_changes_at_the_base_is_said(options: dict[str, str], said: list[str]) -> None:
    text = render_report(result(plan={**plan_json(), "options": options}))
    assert all(words in text for words in said)


def test_no_number_has_a_hyphen_for_its_sign_and_no_scheme_is_spelled_two_ways(page):
    text = shown(re.sub(r"<(pre|code)\b.*?</\1>", "", page, flags=re.S))
    assert not re.search(r"(?<![\w.])-\.?\d", text)
    assert not re.search(r"\b(mup|sp)\b", text) and "muP" in text and "SP" in text


def test_every_table_has_a_caption_every_head_a_scope_and_every_row_a_head(page):
    tables = re.findall(r"<table.*?</table>", page, re.S)
    assert len(tables) == 3  # optima, plan, runs
    for table in tables:
        assert re.search(r"<caption><span>\w", table)
        assert all('scope="' in head for head in re.findall(r"<th\b[^>]*>", table))
        body = table[table.index("<tbody>") :]
        assert body.count('scope="row"') == body.count("<tr>") > 0
    assert page.count('role="region"') == len(tables)


def test_what_is_only_heard_cannot_widen_the_page(page):
    """Text for readers aloud is taken out of the flow, so the box that scrolls must be what it is placed in."""
    rules = dict(re.findall(r"^(\.\w+) \{ position: (\w+);", page, re.M))
    assert rules[".heard"] == "absolute" and rules[".scroll"] == "relative"
    assert 'class="heard"> to the <' in page


def luminance(colour: str) -> float:
    """Relative luminance, ITU-R BT.709."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    """WCAG 2.2's contrast ratio."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_data_have_the_same_colours_on_light_and_dark_and_stand_out_from_both(count):
    colours = svg.palette(count)
    papers = colours["--paper"]
    data = {name: pair for name, pair in colours.items() if re.match("--(series|scheme|control|good|bad)", name)}
    assert len(data) == count + 4
    for light, dark in data.values():
        assert light == dark
        assert all(contrast(light, paper) >= 3.0 for paper in papers)


def test_text_reads_on_both_papers(page):
    light, dark = (dict(re.findall(r"(--[\w-]+): (#\w{6});", part)) for part in page.partition("prefers-color")[::2])
    for theme in (light, {**light, **dark}):
        for name in ("--ink", "--muted", "--link", "--good-text", "--bad-text", "--control-text"):
            assert contrast(theme[name], theme["--paper"]) >= 4.5, name


def test_series_run_from_blue_to_orange_and_from_dark_to_light():
    colours = [svg.palette(4)[f"--series-{i}"][0] for i in range(4)]
    assert all(luminance(b) > luminance(a) + 0.04 for a, b in itertools.pairwise(colours))
    blue_less_red = [int(c[5:], 16) - int(c[1:3], 16) for c in colours]
    assert all(a > b + 30 for a, b in itertools.pairwise(blue_less_red))  # the axis that colour-blind eyes keep


def test_the_overview_is_a_picture_of_its_own():
    picture = figures.overview(result())
    assert picture.startswith("<svg") and 'xmlns="http://www.w3.org/2000/svg"' in picture
    assert "prefers-color-scheme:dark" in picture and "#0a0" not in picture


def test_the_terminal_table_names_every_width_and_the_verdict():
    text = words.table(result())
    assert all(re.search(rf"^{w} ", text, re.M) for w in result().sizes)
    assert text.endswith("PASS: " + words.headline(result()))
    failed = words.table(result("FAIL"))
    assert all(words.spelled(reason) in failed for reason in result().reasons)
    assert not re.search(r"\bmup\b", failed)
