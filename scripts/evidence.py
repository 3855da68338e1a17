"""The figures and the table of verdicts of docs/evidence.md, from benchmarks/*.json. Nothing is trained.

    python scripts/evidence.py              write docs/figures/evidence-*.svg and the table into the page
    python scripts/evidence.py --markdown   print the table

A file that is not there is left out, and so is its figure.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from hptransfer.core.files import decode
from hptransfer.reporting import svg
from hptransfer.reporting.report.figures import draw_optima
from hptransfer.reporting.report.info import OptimaInfo
from hptransfer.reporting.words import short_name
from hptransfer.validation.records.results import Optimum

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS, FIGURES, PAGE = ROOT / "benchmarks", ROOT / "docs" / "figures", ROOT / "docs" / "evidence.md"
BEGIN, END = "<!-- verdicts: scripts/evidence.py writes this table -->\n", "<!-- end -->\n"


class Check(NamedTuple):
    """One transfer check: what was checked, how it ended, and how far the best rates moved (octaves, 90% interval).

    drift, control: (octaves, low, high), the ends nan where not known; control: None without one. gap: tuned loss less
    the control's at the largest size, in nats, or None.
    """

    name: str
    span: str
    seeds: str
    verdict: str
    scheme: str
    drift: tuple[float, float, float]
    control: tuple[float, float, float] | None
    gap: float | None
    source: str


def read(name: str) -> Any:
    """A file of benchmarks/, or None where it is not there."""
    path = BENCHMARKS / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def checks() -> list[Check]:
    """Every transfer check of ours that is kept, in the order of the page."""
    made: list[Check] = []
    for name in ("recipes-first", "recipes"):
        made += [check_of(e["recipe"] + _options(e["options"]), e, f"{name}.json") for e in read(name) or ()]
    if gpu := read("gpu"):
        made.append(check_of("gpt, bf16, on an H200", gpu["check"]["result"], "gpu.json"))
    for path in sorted(BENCHMARKS.glob("optimizers-*.json")):
        made.append(check_of(path.stem.removeprefix("optimizers-"), json.loads(path.read_text("utf-8")), path.name))
    for name in ("depth", "depth-400"):
        if data := read(name):
            sizes = sorted({o["size"] for o in data["optima"]})
            made.append(
                check_of(f"gpt, {data['steps']} steps", {**data, "sizes": sizes, "axis": "depth"}, f"{name}.json")
            )
    return made


def _options(options: Mapping[str, str]) -> str:
    return "".join(f" --{name}" + ("" if value == "yes" else f" {value}") for name, value in options.items())


def check_of(name: str, data: Mapping[str, Any], source: str) -> Check:
    """A check as a benchmark's file holds it."""
    moved = {d["scheme"]: tuple(float(d[key]) for key in ("octaves", "low", "high")) for d in data["drifts"]}
    (scheme,) = [s for s in moved if s != "sp"]
    gaps = {g["size"]: g["mup_minus_sp"] for g in data.get("loss_gaps", ())}
    span = f"{data['axis']} {min(data['sizes'])} to {max(data['sizes'])}"
    seeds = f"{len(data['seeds'])}, from {min(data['seeds'])}"
    gap = float(gaps[max(gaps)]) if gaps else None
    return Check(name, span, seeds, data["verdict"], scheme, moved[scheme], moved.get("sp"), gap, source)


def markdown() -> str:
    """The table of verdicts."""
    lines = ["| check | over | seeds | verdict | moved, octaves | SP moved | loss less SP's | from |", "|" + "---|" * 8]
    lines += ["| " + " | ".join(map(svg.minus, _cells(check))) + " |" for check in checks()]
    return "\n".join(lines) + "\n"


def _cells(check: Check) -> tuple[str, ...]:
    control = _moved(check.control) if check.control else ""
    gap = "" if check.gap is None else f"{check.gap:+.3f}"
    told = f"{short_name(check.scheme)} {_moved(check.drift)}"
    return check.name, check.span, check.seeds, check.verdict, told, control, gap, f"`{check.source}`"


def _moved(drift: tuple[float, float, float]) -> str:
    middle, low, high = drift
    return f"{middle:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else "")


def drifts() -> str:
    """A line per check: how far the best rate moved under its scheme and under SP."""
    rows = checks()
    with svg.drawing(8.6, 0.9 + 0.36 * len(rows)) as (figure, (ax,)):
        ax.axvspan(-0.5, 0.5, color=svg.SCHEME, alpha=0.12, lw=0, label="allowed")
        for height, row in enumerate(reversed(rows)):
            _interval(ax, height + 0.13, row.drift, svg.SCHEME, "o")
            if row.control:
                _interval(ax, height - 0.13, row.control, svg.CONTROL, "s")
        labels = [f"{row.name}, {row.span}: {row.verdict}" for row in reversed(rows)]
        ax.set_yticks(range(len(rows)), labels)
        ax.grid(False, axis="y")
        ax.set_xlabel("octaves that the best learning rate moved")
        for colour, marker, label in ((svg.SCHEME, "o", "muP, CompleteP"), (svg.CONTROL, "s", "SP")):
            ax.plot([], [], color=colour, marker=marker, mfc=svg.PAPER, mew=2, lw=2, label=label)
        ax.legend(loc="upper left", fontsize=9)
        ax.set_ylim(-0.7, len(rows) + 1.2)
        told = "; ".join(f"{row.name}: {_moved(row.drift)}, {row.verdict}" for row in rows)
        return svg.inline(figure, "evidence-drifts", f"How far the best learning rate moved, in octaves. {told}")


def _interval(ax: Axes, height: float, drift: tuple[float, float, float], colour: str, marker: str) -> None:
    middle, low, high = drift
    if math.isfinite(low):
        ax.plot([low, high], [height, height], color=colour, lw=2)
    ax.plot([middle], [height], color=colour, marker=marker, mfc=svg.PAPER, mew=2, ms=6)


def gpu() -> str | None:
    """The best rate against width on an accelerator, 128 to 2048."""
    data = read("gpu")
    if data is None:
        return None
    result = data["check"]["result"]
    infos = [_optima(result, "sp"), _optima(result, "mup")]
    with svg.drawing(6.4, 3.8) as (figure, (ax,)):
        draw_optima(ax, infos, scheme="mup", tolerance=0.5)
        ax.set_title("gpt on an H200, bf16")
        words = [f"{short_name(i.scheme)} at width {o.size}: 2^{o.log2_lr:.2f}" for i in infos for o in i.optima]
        return svg.inline(figure, "evidence-gpu", "Best learning rate against width. " + "; ".join(words))


def _optima(result: Mapping[str, Any], scheme: str) -> OptimaInfo:
    return OptimaInfo(scheme, tuple(decode(Optimum, o) for o in result["optima"] if o["scheme"] == scheme))


STATES = {"PASS": svg.GOOD, "INCONCLUSIVE": svg.MUTED, "REFUSED": svg.CONTROL, "FAIL": svg.BAD}
GROUPS = {"fixed": "heads fixed", "growing": "heads grow", "fixed kv": "heads grow, kv fixed"}


def families() -> str | None:
    """How the plans of other people's models ended, measured by the oracle."""
    counts: dict[str, Counter[str]] = {}
    for name, title in (("families", "transformers"), ("outside", "elsewhere"), ("depth-families", "over depth")):
        for row in (read(name) or {"families": []})["families"]:
            group = f"{title}, {GROUPS[row['heads']]}" if name == "families" else title
            counts.setdefault(group, Counter())[row["verdict"]] += 1
    if not counts:
        return None
    with svg.drawing(8.0, 3.4) as (figure, (ax,)):
        begin = [0] * len(counts)
        for state, colour in STATES.items():
            numbers = [count[state] for count in counts.values()]
            ax.barh(range(len(counts)), numbers, left=begin, color=colour, height=0.62, label=state.lower())
            begin = [a + b for a, b in zip(begin, numbers, strict=True)]
        ax.set_yticks(range(len(counts)), list(counts))
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        ax.set_xlabel("trials")
        ax.legend(loc="lower right", fontsize=9)
        told = "; ".join(f"{group}: " + ", ".join(f"{n} {s}" for s, n in c.items()) for group, c in counts.items())
        return svg.inline(figure, "evidence-families", f"How plans of other people's models ended. {told}")


def predictions() -> str | None:
    """What a forecast's rate costs against the best one, beside rates that people take."""
    data = read("predictions")
    if data is None:
        return None
    ours = {
        f"{start}, frozen": data["summary"][f"frozen, {start}"]["median_regret_nats"] for start in ("quarter", "sweep")
    }
    costs = ours | data["summary"]["naive, median regret in nats"]
    with svg.drawing(7.0, 2.9) as (figure, (ax,)):
        for height, (name, cost) in enumerate(costs.items()):
            ax.plot([cost], [height], marker="o", ms=9, color=svg.SCHEME if name in ours else svg.CONTROL)
        ax.set_yticks(range(len(costs)), list(costs))
        ax.set_ylim(-0.6, len(costs) - 0.4)
        ax.invert_yaxis()
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.grid(False, axis="y")
        ax.set_xlabel("median loss above the best rate's, nats")
        told = "; ".join(f"{name}: {cost:.4g}" for name, cost in costs.items())
        return svg.inline(figure, "evidence-predictions", f"Median cost of a predicted learning rate, in nats. {told}")


def verdicts() -> str | None:
    """How often simulated checks pass, against the true drift, a panel per noise."""
    data = read("verdict")
    if data is None:
        return None
    cells: list[dict[str, Any]] = data["cells"]
    noises, shapes = sorted({c["noise"] for c in cells}), list(dict.fromkeys(c["shape"] for c in cells))
    with svg.drawing(3.3 * len(noises), 3.4, len(noises), share_y=True) as (figure, axes):
        for ax, noise in zip(axes, noises, strict=True):
            for place, shape in enumerate(shapes):
                points = sorted((c["drift"], c["pass"]) for c in cells if (c["shape"], c["noise"]) == (shape, noise))
                ax.plot(*zip(*points, strict=True), color=svg.series(place), marker="o", ms=3.5, label=shape)
            ax.axvline(0.5, color=svg.MUTED, lw=1, ls=(0, (4, 2.5)))
            ax.set_title(f"noise {noise:g}")
            ax.set_xlabel("true drift, octaves")
            ax.set_ylim(-0.03, 1.03)
        axes[0].set_ylabel("share of checks that pass")
        axes[-1].legend(fontsize=8, loc="upper right")
        repeats = data["settings"]["repeats"]
        told = f"Share of simulated checks that pass against the true drift; {repeats} checks a cell."
        return svg.inline(figure, "evidence-verdict", told)


def check_speed() -> str | None:
    """Seconds to a verdict of the same precision, ours beside mup and Optuna."""
    data = read("check")
    if data is None:
        return None
    rows = [(f"{r['recipe']}: {side}", seconds) for r in data["recipes"] for side, seconds in _sides(r)]
    with svg.drawing(7.0, 0.9 + 0.4 * len(rows)) as (figure, (ax,)):
        colours = [svg.SCHEME if "check" in name else svg.CONTROL for name, _ in rows]
        ax.barh(range(len(rows)), [seconds for _, seconds in rows], color=colours, height=0.6)
        ax.set_yticks(range(len(rows)), [name for name, _ in rows])
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        ax.set_xlabel("seconds to a verdict of the same precision")
        told = "; ".join(f"{name}: {seconds:.3g} s" for name, seconds in rows)
        return svg.inline(figure, "evidence-check", f"Seconds to a verdict. {told}")


def _sides(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "hptransfer check", row["ours"]["seconds"]
    (against,) = [stage for stage in row["mup"] if stage["stage"] == row["against"]]
    yield f"mup + Optuna, {row['against']}", against["seconds"]


DRAWN: dict[str, Callable[[], str | None]] = {
    "drifts": drifts,
    "gpu": gpu,
    "families": families,
    "predictions": predictions,
    "verdict": verdicts,
    "check": check_speed,
}
"""Name -> what draws it: an SVG element, or None without its data."""


def write(folder: Path, names: Sequence[str] = tuple(DRAWN)) -> list[Path]:
    """Write the figures that have data; returns their paths."""
    paths: list[Path] = []
    for name in names:
        drawn = DRAWN[name]()
        if drawn is not None:
            paths.append(folder / f"evidence-{name}.svg")
            paths[-1].write_text(svg.standalone(drawn, 8), "utf-8")
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="print the table of verdicts and write nothing")
    if parser.parse_args().markdown:
        print(markdown(), end="")
        return
    for path in write(FIGURES):
        print(path.relative_to(ROOT))
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{markdown()}\n{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
