"""The command line: results on stdout, messages on stderr, and one clear line with exit code 2 for bad input."""

import json
import math
import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from hptransfer.cli import arguments, main
from hptransfer.cli.command import main as run_main
from hptransfer.cli.commands import COMMANDS
from hptransfer.validation.records.results import TransferResult
from tests.cases.reporting import result

RECIPES = Path(__file__).parents[2] / "recipes"
MLP, GPT = str(RECIPES / "mlp.py"), str(RECIPES / "gpt.py")
TINY = ["--widths", "16,32,64", "--steps", "4", "--seeds", "2", "--workers", "1"]


def call(capsys, *args) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command."""
    try:
        code = main([str(a) for a in args])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *args) -> str:
    """The one line with which a command is refused."""
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2^-10..2^-4", [2.0**k for k in range(-10, -3)]),
        ("2^-3..2^-2:0.5", [2.0**-3, 2.0**-2.5, 2.0**-2]),
        ("1e-3,2^-7,2**-6", [1e-3, 2.0**-7, 2.0**-6]),
        ("0.001..0.008", [0.001, 0.002, 0.004, 0.008]),
        ("2^-7", [2.0**-7]),
    ],
)
def test_learning_rates_are_written_as_powers_ranges_or_lists(text, expected):
    assert arguments.lrs(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "0", "nan", "2^-4..2^-10", "2^-9..2^-4:0", "2^-9..2^-4:x", "1..2^300", "2^9999"]
)
def test_bad_learning_rates_are_refused(text):
    with pytest.raises(ArgumentTypeError):
        arguments.lrs(text)


def test_widths_and_seeds():
    assert arguments.widths("64,128") == (64, 128)
    assert arguments.seeds("3") == 3 and arguments.seeds("0,4") == (0, 4) and arguments.seeds("7,") == (7,)
    with pytest.raises(ArgumentTypeError, match="write 64,128,256"):
        arguments.widths("64;128")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "COMMAND"),
        (["dance"], "there is no command 'dance'"),
        (["check"], "RECIPE"),
        (["check", "missing.py"], "No recipe file at 'missing.py'"),
        (["check", MLP + ":other"], "no recipe named 'other'"),
        (["check", MLP, "--lrs", "2^-3..2^-9"], "LOW..HIGH"),
        (["check", MLP, "--width", "64"], "did you mean --widths?"),
        (["check", MLP, "--text", "x"], "takes no options of its own"),
        (["check", GPT, "--txet", "x"], "did you mean --text?"),
        (["check", GPT, "--text", "missing.txt"], "cannot read any bytes"),
        (["check", GPT, "--text"], "unknown option --text"),
        (["check", MLP, "stray"], "unexpected argument 'stray'"),
        (["check", MLP, "--widths", "64"], "at least two widths"),
        (["check", GPT, "--widths", "10,64"], "multiple of 4"),
        (["check", MLP, "--device", "abacus"], "'abacus'"),
        (["check", MLP, "--scheme", "mop"], "'mop'"),
        (["check", MLP, "--out", "/proc/nowhere"], "cannot write there"),
        (["plan", MLP, "--explain", "nothing"], "No parameter 'nothing'"),
        (["plan", MLP, "--width", "0"], "positive"),
        (["plan", MLP, "--save", "/proc/nowhere/plan.json"], "cannot be written"),
        (["plan", MLP, "--optimizer", "Nonsense"], "Nonsense"),
        (["report", "/"], "No verdict.json"),
        (["report", "/", "--recipe", "x"], "unknown option --recipe"),
        (["coord-check", MLP, "--widths", "64,128"], "3"),
        (["check", MLP, "--widths", "64,128", "--depths", "2,4"], "one axis is varied"),
        (["check", MLP, "--depths", "2,4"], "must use scale.depth"),
        (["check", GPT, "--depths", "2,4", "--against", "prediction.json"], "leave out --depths"),
        (["sweep", GPT, "--widths", "64,128", "--depths", "2,4"], "one axis is varied"),
        (["sweep", MLP, "--depths", "1,2"], "must use scale.depth"),
        (["equilibrium", GPT, "--seeds", "5,6"], "takes a count"),
        (["coord-check", MLP, "--seeds", "5,6"], "takes a count"),
        (["equilibrium", MLP], "Adam is compared with the gradient"),
        (["equilibrium", MLP, "--rules", "coupled,best"], "'best' is not a weight-decay rule"),
        (["equilibrium", MLP, "--optimizer", "Adams"], "no such optimizer"),
        (["equilibrium", GPT, "--weight-decay", "0"], "must be a positive finite number"),
    ],
)
def test_bad_input_gives_one_clear_line_and_exit_code_2(args, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *args)


def test_every_command_has_help_that_names_its_options(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    for name in COMMANDS:
        code, out, _ = call(capsys, name, "--help")
        assert code == 0 and "--debug" in out
    assert call(capsys, "--version")[1].startswith("hptransfer 0.")


def test_plan_prints_a_table_json_or_one_explanation_and_saves(capsys, tmp_path):
    code, out, err = call(capsys, "plan", MLP, "--width", "256", "--save", tmp_path / "plan.json")
    assert code == 0 and err == "" and "2.weight" in out and "hidden" in out
    code, out, _ = call(capsys, "plan", MLP, "--width", "256", "--json")
    printed, saved = json.loads(out), json.loads((tmp_path / "plan.json").read_text())
    assert printed["verification"].pop("seconds") > 0 and saved["verification"].pop("seconds") > 0
    assert printed == saved and saved["verification"]["state"] == "verified"
    code, out, _ = call(capsys, "plan", MLP, "--width", "256", "--explain", "2.weight")
    assert code == 0 and "m_in = 4" in out and "lr x 0.25" in out


def test_the_plan_at_base_size_changes_nothing(capsys):
    code, out, _ = call(capsys, "plan", MLP, "--width", "64", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and all(r["lr_mult"] == r["init_mult"] == r["eps_mult"] == 1 for r in rows)


def test_plan_takes_another_optimizer_and_scheme(capsys):
    code, out, _ = call(capsys, "plan", MLP, "--optimizer", "SGD", "--scheme", "sp")
    assert code == 0 and "SGD" in out and "scheme sp" in out


def test_sweep_prints_a_loss_per_learning_rate_and_keeps_the_runs(capsys, tmp_path):
    args = ["sweep", MLP, *TINY, "--lrs", "2^-8,2^-7", "--out", tmp_path, "--schemes", "mup"]
    code, out, err = call(capsys, *args)
    assert code == 0 and out.count("mup") == 3 and "runs.jsonl" in err
    before = (tmp_path / "runs.jsonl").read_text()
    code, out, _ = call(capsys, *args, "--json")
    assert len(json.loads(out)) == 12 and (tmp_path / "runs.jsonl").read_text() == before  # nothing was run twice


def test_coord_check_prints_the_verdict_and_exits_by_it(capsys, tmp_path):
    grid = ["--widths", "64,128,256,512", "--steps", "2", "--out", tmp_path]
    code, out, _ = call(capsys, "coord-check", MLP, *grid)
    assert (code, "PASS" in out) == (0, True)
    code, out, _ = call(capsys, "coord-check", MLP, *grid, "--scheme", "sp", "--json")
    assert (
        code == 1
        and json.loads(out)["verdict"] == json.loads((tmp_path / "coord.json").read_text())["verdict"] == "FAIL"
    )


def test_equilibrium_tells_the_decay_rules_apart_and_exits_by_the_first(capsys, tmp_path):
    args = ["equilibrium", MLP, "--optimizer", "AdamW", "--widths", "64,128,256", "--steps", "40", "--seeds", "2"]
    code, out, _ = call(capsys, *args, "--rules", "coupled,independent", "--out", tmp_path, "--json")
    found = json.loads(out)
    assert found == json.loads((tmp_path / "equilibrium.json").read_text())
    assert (code, found["verdicts"]["coupled"]) == (1, "FAIL") and found["verdicts"]["independent"] != "FAIL"


def test_a_sweep_over_depths_prints_a_line_per_depth(capsys, tmp_path):
    args = ["--depths", "1,2", "--steps", "1", "--seeds", "1", "--lrs", "2^-8", "--schemes", "sp", "--out", tmp_path]
    code, out, _ = call(capsys, "sweep", GPT, *args)
    head, *lines = (line.split() for line in out.splitlines())
    assert code == 0 and head[:2] == ["scheme", "depth"] and [line[:2] for line in lines] == [["sp", "1"], ["sp", "2"]]


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> Path:
    """A directory with a real check, too small to pass."""
    out = tmp_path_factory.mktemp("check")
    assert run_main(["check", MLP, *TINY, "--lrs", "2^-8..2^-4", "--out", str(out)]) == 3
    return out


def test_check_writes_everything_and_prints_the_table(checked, capsys):
    assert {p.name for p in checked.iterdir()} >= {"verdict.json", "runs.jsonl", "plan.json", "report.html"}
    args = ["check", MLP, *TINY, "--lrs", "2^-8..2^-4", "--out", checked]
    runs = (checked / "runs.jsonl").read_text()
    code, out, err = call(capsys, *args)  # again: nothing is trained twice
    assert code == 3 and (checked / "runs.jsonl").read_text() == runs
    found = TransferResult.load(checked)
    assert out.splitlines()[0].startswith("width") and f"{found.verdict}: " in out
    assert all(f"\n{width} " in out for width in (16, 32, 64))
    assert str(checked / "report.html") in err
    assert found.command.startswith(f"hptransfer check {MLP}") and found.coord is not None


def test_check_prints_json_alone_on_stdout(checked, capsys):
    code, out, _ = call(capsys, "check", MLP, *TINY, "--lrs", "2^-8..2^-4", "--out", checked, "--json")
    data = json.loads(out)
    assert code == 3 and data["verdict"] == "INCONCLUSIVE" and "runs" not in data


def test_report_renders_the_same_page_from_the_files_alone(checked, capsys, tmp_path):
    code, out, _ = call(capsys, "report", checked, "--out", tmp_path / "again.html")
    assert (code, out) == (0, f"{tmp_path / 'again.html'}\n")
    assert (tmp_path / "again.html").read_text() == (checked / "report.html").read_text()


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("FAIL", 1), ("INCONCLUSIVE", 3)])
def test_the_exit_code_of_check_is_its_verdict(verdict, code, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("hptransfer.validation.transfer.transfer_check", lambda *args, **options: result(verdict))
    assert call(capsys, "check", MLP, "--out", tmp_path, "--no-coord")[0] == code


def test_a_recipes_own_option_reaches_it_and_leaves_the_environment_as_it_was(capsys, tmp_path):
    text = tmp_path / "text"
    text.write_text("abc " * 1000)
    before = dict(os.environ)
    args = ["sweep", GPT, "--widths", "16", "--steps", "2", "--seeds", "1", "--lrs", "2^-6", "--out", tmp_path / "out"]
    own = call(capsys, *args, f"--text={text}", "--schemes", "sp", "--json")[1]
    default = call(capsys, *args, "--schemes", "sp", "--json")[1]
    (a,), (b,) = json.loads(own), json.loads(default)
    assert a["fingerprint"] != b["fingerprint"] and math.isfinite(a["val_loss"])
    assert dict(os.environ) == before


def test_a_recipe_that_raises_is_named_on_one_line_and_debug_shows_where(capsys, tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('the disk is full')\n")
    assert "RuntimeError while being loaded: the disk is full" in refused(capsys, "check", tmp_path / "broken.py")
    code, _, err = call(capsys, "check", tmp_path / "broken.py", "--debug")
    assert code == 2 and "Traceback" in err


def test_an_unexpected_error_is_one_line_too_and_an_interrupt_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    def raises(error):
        def run(*args, **options):
            raise error

        return run

    monkeypatch.setattr("hptransfer.validation.transfer.transfer_check", raises(ZeroDivisionError("by zero")))
    assert "ZeroDivisionError: by zero" in refused(capsys, "check", MLP, "--out", tmp_path)
    monkeypatch.setattr("hptransfer.validation.transfer.transfer_check", raises(KeyboardInterrupt()))
    code, _, err = call(capsys, "check", MLP, "--out", tmp_path)
    assert code == 130 and "goes on from there" in err


def test_the_installed_command_runs_and_a_closed_pipe_is_no_error():
    script = "import sys; from hptransfer.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "plan", MLP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_a_study_finds_a_learning_rate_and_a_worker_needs_one_to_join(capsys, tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    said = refused(capsys, "worker", MLP, "--storage", url)
    assert "holds no study" in said
    args = ["study", MLP, "--storage", url, "--trials", "3", "--steps", "4", "--workers", "1", "--widths", "16"]
    code, out, _ = call(capsys, *args)
    assert code == 0 and "mup" in out and "3 complete" in out
    assert json.loads(call(capsys, *args, "--json")[1])["complete"] == 3  # nothing is run twice
    assert call(capsys, "worker", MLP, "--storage", url, "--patience", "0.1")[1] == "0 trials\n"


def test_report_writes_the_curves_as_a_picture(checked, capsys, tmp_path):
    code, out, _ = call(capsys, "report", checked, "--out", tmp_path / "r.html", "--figure", tmp_path / "curves.svg")
    assert code == 0 and str(tmp_path / "curves.svg") in out
    assert (tmp_path / "curves.svg").read_text().startswith("<svg")


def test_plan_prints_what_another_tool_reads(capsys):
    assert main(["plan", "recipes/mlp.py", "--export", "torchtitan", "--lr", "0.01", "--weight-decay", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("ParamGroupConfig(pattern=") == 4 and "'lr': 0.01" in printed
    assert main(["plan", "recipes/mlp.py", "--export", "torchtitan"]) == 2
    assert "give the base's as lr=" in capsys.readouterr().err


def test_a_check_waits_for_no_import_of_what_it_does_not_use():
    code = (
        "import sys; from hptransfer.cli.command import build_parser as b; b(['check']); print('scipy' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
