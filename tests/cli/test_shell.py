"""The shell: what it imports before it answers, names that were meant, forms of a result, and the step that follows."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hptransfer.checks.verified import recipe_plan
from hptransfer.cli import main
from hptransfer.cli.commands import COMMANDS, as_now_called
from hptransfer.cli.parser import build_parser
from hptransfer.cli.plans import plan
from hptransfer.cli.results.formats import WIDTH, show_as
from hptransfer.cli.results.next_step import after_check
from hptransfer.cli.results.verdict_forms import verdict_forms
from hptransfer.core.training import progress
from hptransfer.core.training.recipe import load_recipe
from hptransfer.parametrization.interop.export import FORMS
from hptransfer.parametrization.options import ExportForm
from hptransfer.parametrization.plan import Plan
from hptransfer.reporting.words import table as table_of
from tests.cases.reporting import result

ROOT = Path(__file__).parents[2]
MLP, GPT = str(ROOT / "recipes" / "mlp.py"), str(ROOT / "recipes" / "gpt.py")
HEAVY = {"torch", "numpy", "scipy", "matplotlib", "optuna", "jinja2", "transformers", "sklearn", "tqdm", "yaml"}
BUDGET = 40
"""Modules of ours that an answer without training may load."""


def loaded_by(*arguments: str) -> tuple[int, set[str]]:
    """(exit code, names of the modules loaded) of a command in a process of its own."""
    code = (
        "import sys, contextlib, io\n"
        "from hptransfer.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    try: code = main(sys.argv[1:])\n"
        "    except SystemExit as stop: code = stop.code or 0\n"
        "print(code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "", done.stderr
    first, *modules = done.stdout.split()
    return int(first), set(modules)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["chekc"], 2),
        *(([name, "--help"], 0) for name in COMMANDS),
        (["check", "recipes/mpl.py"], 2),
        (["check", "recipes/gpt.py", "--txet", "x"], 2),
        (["check", "recipes/mlp.py", "--lrs", "2^-3..2^-9"], 2),
        (["plan", "recipes/mlp.py", "--export", "jax"], 2),
        (["predict", "recipes/mlp.py", "--target", "width=x"], 2),
        (["judge", "runs.csv", "--widht", "3"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_no_training_is_answered_without_torch_or_anything_of_size(arguments, code):
    given, modules = loaded_by(*arguments)
    assert given == code
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()
    assert len([name for name in modules if name.startswith("hptransfer")]) <= BUDGET


def test_importing_the_package_imports_nothing_of_size_and_planning_no_more_than_torch():
    light = "import hptransfer, sys; print(*sys.modules)"
    planning = "import torch, hptransfer as hpt, sys; hpt.make_plan, hpt.param_groups; print(*sys.modules)"
    for code, heavy in ((light, HEAVY), (planning, HEAVY - {"torch", "numpy", "yaml", "tqdm"} | {"torch._dynamo"})):
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        names = set(shown.stdout.split())
        assert "hptransfer" in names and (names | {n.partition(".")[0] for n in names}) & heavy == set()


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "hptransfer", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("hptransfer ")


def refused(capsys, *arguments: str) -> str:
    try:
        assert main(list(arguments)) == 2
    except SystemExit as stop:
        assert stop.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["chekc"], "'check'"),
        (["pln"], "'plan'"),
        (["forecst"], None),
        (["equilibriun"], "'equilibrium-check'"),
        (["ledgr"], "'review'"),
        (["check", "mlp"], "'recipes/mlp.py'"),
        (["check", "recipes/resnte.py"], "'recipes/resnet.py'"),
        (["plan", "recipe/gpt.py"], "'recipes/gpt.py'"),
        (["check", MLP, "--width", "64"], "--widths"),
        (["check", MLP, "--tolerence=1"], "--tolerance"),
        (["sweep", MLP, "--schmes", "mup"], "--schemes"),
        (["check", GPT, "--headdim", "8"], "--head-dim"),
        (["check", MLP + ":recpie"], "'recipe'"),
        (["judge", "x.csv", "--colums", "a=b"], "--columns"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_a_slip_is_answered_with_what_was_meant(arguments, meant, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = refused(capsys, *arguments)
    assert ("did you mean" in said) == (meant is not None)
    if meant is not None:
        assert f"did you mean {meant}?" in said


def test_names_follow_one_pattern_and_former_ones_still_work(capsys):
    for name in COMMANDS:
        assert name.isalpha() or (name.endswith("-check") and name.removesuffix("-check").isalpha())
    renamed = {"equilibrium": "equilibrium-check", "worker": "work", "ledger": "review", "laws": "fit"}
    renamed |= {"predict score": "score", "mechanics": "mechanics-check"}
    for former, name in renamed.items():
        assert as_now_called([*former.split(), "x", "--json"]) == [name, "x", "--json"]
    assert as_now_called(["predict", "x.py"]) == ["predict", "x.py"]
    with pytest.raises(SystemExit) as stopped:
        main(["laws", "--help"])
    assert stopped.value.code == 0 and "hptransfer fit" in capsys.readouterr().out


def test_completion_knows_every_subcommand_and_option(capsys):
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh"):
        with pytest.raises(SystemExit) as stopped:
            main(["--print-completion", shell])
        script = capsys.readouterr().out
        assert stopped.value.code == 0 and all(name in script for name in COMMANDS) and "--tolerance" in script
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    asked = 'COMP_WORDS=(hptransfer chec); COMP_CWORD=1; _shtab_hptransfer; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True)
    assert done.stdout.split() == ["check"], done.stderr


def test_completion_without_its_library_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "pip install shtab" in refused(capsys, "--print-completion", "bash")


def test_the_choices_of_an_export_are_those_that_there_are():
    assert ExportForm.__args__ == tuple(FORMS)


def shown(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def records_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def is_markdown(text: str) -> bool:
    head, rule, *body = (line.count("|") for line in text.split("\n\n")[0].splitlines())
    return head == rule and all(count >= head for count in body) and bool(body)


@pytest.fixture(scope="module")
def gpt_plan() -> Plan:
    recipe = load_recipe(GPT)
    return recipe_plan(recipe, recipe.base.with_(width=128), verify=False)


def test_a_plan_has_four_forms_and_its_table_fits_100_columns(gpt_plan, capsys, monkeypatch):
    monkeypatch.setattr(plan, "plan_of", lambda *_: gpt_plan)
    table = shown(capsys, "plan", GPT)[1]
    *lines, last = table.splitlines()
    assert max(map(len, lines)) <= WIDTH == 100 and last.startswith("Next: hptransfer check ")
    assert table.count("2203.03466") == len([line for line in lines if line.startswith("rule ")])
    data = json.loads(shown(capsys, "plan", GPT, "--format", "json")[1])
    assert data == json.loads(shown(capsys, "plan", GPT, "--json")[1])
    records = records_of(shown(capsys, "plan", GPT, "--format", "csv")[1])
    assert [(r["parameter"], float(r["lr_mult"])) for r in records] == [(r["name"], r["lr_mult"]) for r in data["rows"]]
    text = shown(capsys, "plan", GPT, "--format", "md")[1]
    assert is_markdown(text) and "blocks.*.up.weight (x2)" in text and "rule 1: " in text


def test_long_names_are_shortened_in_the_table_alone(capsys, tmp_path):
    deep = "a_module_with_a_long_name" * 4
    path = tmp_path / "long.py"
    path.write_text(
        "import torch\nfrom collections import OrderedDict\nfrom torch import nn\n"
        "from tests.cases.validation import recipe as tiny\n"
        "def build(scale):\n"
        "    parts = [('first', nn.Linear(4, scale.width)), ('relu', nn.ReLU())]\n"
        f"    return nn.Sequential(OrderedDict([*parts, ('{deep}', nn.Linear(scale.width, 2))]))\n"
        "recipe = tiny.replace(build=build, example_inputs=lambda: (torch.zeros(1, 4),), widths=(8, 16))\n"
    )
    code, table, err = shown(capsys, "plan", str(path), "--no-verify")
    assert code == 0, err
    assert max(map(len, table.splitlines()[:-1])) <= WIDTH and deep not in table and "long_name.weight" in table
    assert deep in shown(capsys, "plan", str(path), "--no-verify", "--format", "csv")[1]


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_a_check_ends_with_a_next_command_that_can_be_typed(verdict, tmp_path):
    given = ["check", GPT, "--text", MLP, "--json", "--out", str(tmp_path)]
    args, rest = build_parser(["check"]).parse_known_args(given)
    args.rest, args.given = rest, given
    last = after_check(result(verdict), args, tmp_path)
    assert last.startswith("Next: hptransfer ") and f"recipes/gpt.py --text {MLP}" in last and "--json" not in last
    words = shlex.split(last.removeprefix("Next: hptransfer ").partition("   (")[0])
    build_parser(words[:1]).parse_known_args(words)
    assert words[0] == {"PASS": "predict", "FAIL": "plan", "INCONCLUSIVE": "check"}[verdict]


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_a_verdict_has_four_forms(verdict, capsys):
    """In CSV a record an optimum, with the verdict beside it on stderr; in JSON all but the runs."""
    judged = result(verdict)
    show_as("csv", verdict_forms(judged))
    captured = capsys.readouterr()
    assert [float(r["log2_lr"]) for r in records_of(captured.out)] == [o.log2_lr for o in judged.optima]
    assert f"{verdict}: " in captured.err
    show_as("json", verdict_forms(judged), then="Next: ")
    assert json.loads(capsys.readouterr().out) == judged.without_runs()
    show_as("md", verdict_forms(judged), then="Next: ")
    text = capsys.readouterr().out
    assert is_markdown(text) and f"{verdict}: " in text and "Next" not in text
    show_as("table", verdict_forms(judged), then="Next: this")
    assert capsys.readouterr().out == table_of(judged) + "\n\nNext: this\n"


def test_more_seeds_are_asked_for_once_and_without_secrets(capsys, tmp_path, monkeypatch):
    inconclusive = result("INCONCLUSIVE")
    monkeypatch.setattr("hptransfer.validation.transfer.transfer_check", lambda *args, **options: inconclusive)
    url = "postgresql://me:hush@host/db"
    out = shown(capsys, "check", MLP, "--seeds", "2", "--storage", url, "--no-coord", "--out", str(tmp_path))[1]
    last = out.splitlines()[-1]
    assert last.count("--seeds") == 1 and f"--seeds {2 * len(inconclusive.seeds)}" in last and "hush" not in last


def test_a_forecast_has_four_forms(capsys, tmp_path):
    tiny = str(ROOT / "tests" / "cases" / "validation.py")
    args = ["predict", tiny, "--target", "width=32", "--lr", "0.01", "--no-diagnostics", "--out", str(tmp_path)]
    code, out, _ = shown(capsys, *args)
    assert code == 0 and out.splitlines()[-1].startswith("Next: hptransfer plan ")
    records = records_of(shown(capsys, *args, "--format", "csv")[1])
    assert float(records[0]["value"]) == 0.01
    assert is_markdown(shown(capsys, *args, "--format", "md")[1])
    assert "learning_rate" in json.loads(shown(capsys, *args, "--format", "json")[1])


def test_progress_is_a_line_at_a_time_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with progress.progress(label="sweep", total=6, unit="run") as bar:
        for _ in range(6):
            time.sleep(0.04)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 6 and all(line.startswith("sweep:") and "\r" not in line for line in lines)


def test_what_is_over_within_half_a_minute_prints_no_progress(capsys):
    with progress.progress(label="sweep", total=6) as bar:
        bar.update(6)
    assert capsys.readouterr().err == "" and progress.EVERY == 30
