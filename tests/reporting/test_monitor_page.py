"""A monitored run as text and as a page: from the file alone, with names that try to break out of it."""

import json
import math
import re
from dataclasses import replace

import pytest

from hptransfer.cli.command import main
from hptransfer.core.errors import UsageError
from hptransfer.monitoring.readings import Header, Monitored, Reading, Recorder, Spectrum
from hptransfer.monitoring.summary import summarise_run
from hptransfer.reporting.monitor_page import SHOWN, drawn, write_monitor_page

HOSTILE = "<script>alert(1)</script>"
MEASURED = ("spectra", "layers", "noise", "sharpness", "preconditioned sharpness")


def monitored(*, steps: int = 100, height: float = 0.0, edge: float = 0.98, name: str = "layer", **last) -> Monitored:
    """A run that falls as x^-.4, `height` above that, whose preconditioned sharpness settles at `edge`."""
    readings = [Reading(k, float(k), 1 + height + 0.5 * (k / steps) ** -0.4, 0.01) for k in range(1, steps + 1)]
    spectrum = Spectrum(0.1, 2.0, 3.0, 1.5, (2.0, 1.0, 0.5))
    for place, k in enumerate(range(9, steps, 10)):
        ratio = min(edge, 0.2 * (place + 1))
        numbers = {
            "preconditioned sharpness": 3800 * ratio,
            "preconditioned sharpness / edge": ratio,
            "gradient signal": 1.0,
            "gradient noise": 50.0,
            "noise scale": 50.0,
            "monitor share": 0.02,
        }
        layers = {"outputs": {name: 1.0 + place}, "alignment": {name: 0.6}, "update_alignment": {name: 0.9}}
        spectra = {"weights": {f"{name}.weight": spectrum}, "updates": {f"{name}.weight": spectrum}}
        readings[k] = replace(readings[k], numbers=numbers, **layers, **spectra)
    readings[-1] = replace(readings[-1], **last)
    return Monitored(Header(name, steps, 1234, "AdamW", 38.0, 0.03, 1, MEASURED), tuple(readings))


def saved(run: Monitored, path) -> str:
    recorder = Recorder(path, run.header, resume=False)
    for reading in run.readings:
        recorder.write(reading)
    recorder.close()
    return str(path)


def test_the_text_says_where_the_run_stands():
    text = str(summarise_run(monitored()))
    assert (
        "AdamW, 1,234 parameters, step 100 of 100, loss 1.5; the monitor took 2.0% of the training time, of 3%" in text
    )
    assert "Gradient noise scale: 50 examples (90%: 50 to 50)" in text
    row = next(line for line in text.splitlines() if line.startswith("preconditioned sharpness"))
    assert " ".join(row.split()[2:]) == "3724 the optimizer's limit / lr 0.98 0.98 no at the edge"
    layer = next(line for line in text.splitlines() if line.startswith("layer "))
    assert layer.split() == ["layer", "1", "10", "10.00", "0.60", "0.90"]
    assert "Median alignment of updates: 0.90" in text
    assert "did not pay for it: sharpness." in text and "ALARM" not in text


def test_above_the_edge_below_it_and_too_early_to_say():
    assert summarise_run(monitored(edge=1.6)).edges[0].place == "above"
    assert summarise_run(monitored(edge=1.6)).edges[0].arrival == 50
    assert summarise_run(monitored(edge=0.5)).edges[0].place == "below"
    short = monitored()
    short = Monitored(short.header, short.readings[:30])
    assert summarise_run(short).edges[0].place == ""


def test_a_reference_is_judged_after_the_run_too():
    healthy, ill = (summarise_run(monitored(height=h), monitored()) for h in (-0.1, 0.2))
    assert not healthy.alarmed and "as a healthy run does" in str(healthy)
    assert ill.alarmed and "ALARM at 30% of the run: no collapse on the reference" in str(ill)
    with pytest.raises(UsageError, match="0 of 20 parts"):
        summarise_run(monitored(), Monitored(monitored().header, ()))


def test_what_was_dropped_and_what_rang_is_told():
    run = monitored(dropped={"sharpness": "RuntimeError: no kernel"}, alarms=("step 100: the loss is nan",))
    summary = summarise_run(run)
    assert summary.alarmed and "ALARM at step 100: the loss is nan" in str(summary)
    assert "Not measured: sharpness: RuntimeError: no kernel" in str(summary)


def test_a_signal_that_is_not_resolved_has_no_noise_scale():
    run = monitored()
    unresolved = [replace(r, numbers={**r.numbers, "gradient signal": -1.0}) if r.numbers else r for r in run.readings]
    assert summarise_run(Monitored(run.header, tuple(unresolved))).noise is None


def test_the_page_has_every_figure_and_lets_no_name_out(tmp_path):
    run = monitored(name=HOSTILE)
    summary = summarise_run(run, monitored())
    titles = [title for title, _, _ in drawn(summary, monitored())]
    assert titles == [
        "Loss",
        "Edge of stability",
        "Gradient noise scale",
        "Outputs",
        "Alignment of weights and inputs",
        "Alignment of updates and inputs",
        "Spectra of the weights",
        "Spectra of the last updates",
    ]
    page = write_monitor_page(summary, tmp_path / "run.html", reference=monitored()).read_text()
    assert (
        page.count("<svg") == len(titles) and page.count("<script") == 1 and HOSTILE not in page and "http:" not in page
    )
    assert [title for title, _, _ in drawn(summarise_run(Monitored(run.header, run.readings[:5])), None)] == ["Loss"]


def test_the_page_has_real_tables_and_plain_text_on_its_axes(tmp_path):
    page = write_monitor_page(summarise_run(monitored(), monitored()), tmp_path / "run.html").read_text("utf-8")
    tables = re.findall(r"<table.*?</table>", page, re.S)
    assert len(tables) == 3 and "<pre" not in page and "mathdefault" not in page
    assert '<th scope="row">layer</th><td class=n>1</td><td class=n>10</td>' in "".join(tables)
    assert "<td>the optimizer&#39;s limit / lr</td>" in page  # words stand left, numbers right
    assert all(re.search(r"<caption><span>\w", table) for table in tables)


def test_two_lines_of_a_figure_have_the_palette_s_ends_for_colours():
    run = monitored()
    outputs = {"a": 1.0, "b": 2.0}
    figures = {
        t: f
        for t, _, f in drawn(summarise_run(Monitored(run.header, (replace(run.readings[0], outputs=outputs),))), None)
    }
    used = set(re.findall(r"var\(--series-(\d+)\)", figures["Outputs"]))
    assert used == {"0", str(SHOWN - 1)}


def test_losses_over_many_decades_are_drawn_on_a_log_scale():
    def figure(height: float) -> str:
        run = monitored(height=height)
        return dict((t, f) for t, _, f in drawn(summarise_run(run), None))["Loss"]

    assert ">0.01</text>" in figure(-1.495) and ">0.01</text>" not in figure(0.0)


def test_of_many_modules_the_figure_shows_some_and_both_ends():
    run = monitored()
    many = {f"m{k}": 1.0 + k for k in range(100)}
    figures = dict(
        (t, f)
        for t, _, f in drawn(summarise_run(Monitored(run.header, (replace(run.readings[0], outputs=many),))), None)
    )
    assert figures["Outputs"].count(">m") == SHOWN and ">m0<" in figures["Outputs"] and ">m99<" in figures["Outputs"]


def test_the_command_prints_writes_the_page_and_exits_with_the_alarm(tmp_path, capsys):
    small = saved(monitored(), tmp_path / "small.jsonl")
    large = saved(monitored(height=0.2), tmp_path / "large.jsonl")
    assert main(["monitor", "report", small]) == 0
    assert (tmp_path / "small.html").exists() and "at the edge" in capsys.readouterr().out
    assert main(["monitor", "report", large, "--reference", small, "--json", "--out", str(tmp_path / "p.html")]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["alarm"][0] == pytest.approx(0.3) and data["noise"] == pytest.approx([50.0, 50.0, 50.0])
    assert math.isclose(data["looks"][-1]["slope"], 1.0, rel_tol=1e-6) and (tmp_path / "p.html").exists()


@pytest.mark.parametrize(
    "words", [["none.jsonl"], ["small.jsonl", "--reference", "none.jsonl"], ["small.jsonl", "--x"]]
)
def test_wrong_files_are_refused_in_one_line(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(monitored(), tmp_path / "small.jsonl")
    assert main(["monitor", "report", *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
