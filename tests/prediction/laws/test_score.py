"""Facts about scoring laws by regret: the true law wins, useless ones are told so, none is judged where tuned."""

import itertools
import math

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.lr_laws import LR_LAWS, Law, power
from hptransfer.prediction.laws.own_law import OwnLaw
from hptransfer.prediction.laws.score import score_joint, score_lr_laws
from hptransfer.prediction.laws.sweep_table import Cell, make_table, read_table

PARAMS, TOKENS, BATCHES = np.geomspace(5e7, 2e9, 4), np.geomspace(2e9, 1e11, 3), np.geomspace(1e5, 2e6, 4)
LRS = 2.0 ** np.arange(-14, -5)


def sweep(exponents, constant, *, noise=0.0, batches=(5e5,), best_batch=None, curvature=0.01):
    """Runs whose loss is a parabola in ln lr around constant * prod x^e (and in ln B around best_batch(D))."""
    rng, rows = np.random.default_rng(0), []
    for n in PARAMS:
        for d in TOKENS:
            for b in batches:
                best = power(constant, **exponents)(**{k: {"params": n, "tokens": d, "batch": b}[k] for k in exponents})
                extra = 0.0 if best_batch is None else 0.02 * math.log(b / best_batch(d)) ** 2
                for lr in LRS:
                    loss = 3 + 10 / n**0.2 + curvature * math.log(lr / best) ** 2 + extra + noise * rng.normal()
                    rows.append((n, d, b, lr, loss))
    names = ("params", "tokens", "batch", "lr", "loss")
    return dict(zip(names, np.array(rows).T, strict=True))


def by_name(board, name, calibrated):
    return next(s for s in board.scores if (s.law, s.calibrated) == (name, calibrated))


def test_the_law_that_made_the_table_wins_and_is_recommended():
    table = make_table(**sweep({"params": -0.7129, "tokens": 0.3075}, 1.797))
    board = score_lr_laws(table)
    best = board.scores[0]
    assert best.law == "step-law" and best.recommended and best.mean_regret < 2e-3
    assert best.octaves < 0.02 and best.cells == 12 and board.blocks == 12
    constant = by_name(board, "constant", True)
    assert constant.mean_regret > 10 * best.mean_regret and not constant.recommended
    assert constant.verdict == "is the constant"


def test_where_one_rate_serves_all_no_law_beats_the_constant_and_steep_ones_lose():
    board = score_lr_laws(make_table(**sweep({}, 2e-3, noise=1e-4)))
    assert not any(s.recommended for s in board.scores)
    assert by_name(board, "step-law", False).verdict == "loses to a constant"
    assert by_name(board, "step-law", True).verdict == "loses to a constant"
    assert "loses to a constant" in str(board)


def test_a_right_exponent_with_a_wrong_constant_shows_in_the_calibrated_row():
    table = make_table(**sweep({"params": -0.36}, 3.7 / 8))  # porian's shape, three octaves below
    board = score_lr_laws(table)
    raw, own = by_name(board, "porian", False), by_name(board, "porian", True)
    assert raw.octaves == pytest.approx(3, abs=0.01)
    assert own.octaves < 0.1 and own.recommended and not raw.recommended


def test_shapes_without_a_constant_are_scored_only_with_the_tables_own():
    board = score_lr_laws(make_table(**sweep({"batch": 0.5}, 1e-6, batches=BATCHES)))
    assert {s.calibrated for s in board.scores if s.law == "sqrt-batch"} == {True}
    assert board.scores[0].law == "sqrt-batch" and board.scores[0].recommended


def test_the_constant_is_judged_only_on_blocks_it_was_not_chosen_on():
    # two blocks with optima 4 octaves apart: each block's constant is the other's optimum
    rows = [(n, lr, (math.log2(lr / best)) ** 2) for n, best in ((1e8, 2**-12), (1e9, 2**-8)) for lr in LRS]
    params, lr, loss = np.array(rows).T
    board = score_lr_laws(make_table(params=params, lr=lr, loss=loss), laws={})
    assert board.scores[0].mean_regret == pytest.approx(16, rel=0.05)


def test_laws_whose_variables_the_table_lacks_are_skipped_with_the_reason():
    runs = sweep({}, 1e-3)
    board = score_lr_laws(make_table(params=runs["params"], lr=runs["lr"], loss=runs["loss"]))
    assert "tokens" in board.skipped["step-law"] and "batch" in board.skipped["sqrt-batch"]
    assert "not scored" in str(board)


def test_choices_outside_the_grid_are_clamped_and_counted():
    far = Law("far", "lr", "1", ("params",), power(1.0, params=0.0), "here", "by eye", "none")
    board = score_lr_laws(make_table(**sweep({}, 1e-3)), laws={"far": far})
    row = by_name(board, "far", False)
    assert row.clamped == row.cells == 12
    assert row.mean_regret == pytest.approx(
        0.01 * (math.log(LRS[-1] / 1e-3) ** 2 - math.log(2**-10 / 1e-3) ** 2), rel=0.01
    )


def test_choosing_the_batch_too_prefers_the_law_that_made_the_table():
    def step_batch(d):
        return 0.5807 * d**0.5709

    table = make_table(
        **sweep({"params": -0.7129, "tokens": 0.3075}, 1.797, batches=np.geomspace(3e4, 4e6, 8), best_batch=step_batch)
    )
    board = score_joint(table)
    assert board.scores[0].law == "step-law" and board.scores[0].recommended
    assert {s.law for s in board.scores} == {"constant", "step-law", "deepseek", "porian", "moonlight"}
    assert "loss" in board.skipped["minicpm"]
    assert "constant" in score_joint(table, pairs=["bjorck"]).skipped["bjorck"]


def test_a_cell_interpolates_between_its_rates_and_never_below_its_best():
    cell = Cell(1e8, 1e9, math.nan, (1e-4, 1e-3, 1e-2), (3.0, 2.0, 2.5))
    assert cell.loss_at(np.array([1e-3, 1.0, 1e-9])).tolist() == [2.0, 2.5, 3.0]
    assert 0.0 < cell.regret(3e-3) < 0.5
    assert cell.clamped(2e-2) and not cell.clamped(1e-2)
    assert all(cell.regret(lr) >= 0 for lr in np.geomspace(1e-5, 1e-1, 50))
    assert not cell.at_edge and Cell(1, 1, 1, (1e-4, 1e-3), (2.0, 3.0)).at_edge
    exact = Cell(1, 1, 1, tuple(LRS), tuple(3 + 0.02 * (np.log(LRS) - math.log(1.3e-3)) ** 2))
    assert exact.best_lr == pytest.approx(1.3e-3, rel=1e-9)


def test_the_minimum_between_two_rates_is_found_so_that_the_true_optimum_has_no_regret():
    lrs = 2.0 ** np.arange(-12, -6)
    cell = Cell(1, 1, 1, tuple(lrs), tuple(3 + 0.02 * (np.log(lrs) - math.log(1.3e-3)) ** 2))
    assert cell.best_loss == pytest.approx(3.0, abs=1e-12)
    assert cell.regret(1.3e-3) == pytest.approx(0.0, abs=1e-12)
    assert cell.regret(2.0**-10) == pytest.approx(0.02 * math.log(1.3e-3 / 2**-10) ** 2, rel=1e-6)


def test_a_neighbour_over_the_cliff_neither_digs_a_hole_nor_moves_the_optimum_far():
    lrs = (1e-3, 2e-3, 4e-3)
    calm, cliff = (Cell(1, 1, 1, lrs, (3.1, 3.0, high)) for high in (3.4001, 8.0))
    assert cliff.best_loss == pytest.approx(calm.best_loss, abs=1e-4) and cliff.best_lr == pytest.approx(
        calm.best_lr, rel=1e-3
    )
    assert 3.0 - cliff.best_loss < 0.03
    at = np.geomspace(1e-3, 4e-3, 401)
    assert np.all(np.abs(np.diff(cliff.loss_at(at))) < 0.06)  # continuous where the pieces meet
    assert cliff.loss_at(np.array([3.9e-3]))[0] > 7


def test_ties_and_lines_leave_the_best_run_as_the_best():
    tie = Cell(1, 1, 1, (1e-3, 2e-3, 4e-3), (3.0, 3.0, 3.5))
    assert tie.best_loss == 3.0 and tie.regret(2e-3) == 0.0


def test_seeds_are_averaged_and_diverged_runs_are_an_error_unless_dropped():
    columns = {"params": [1e8] * 5, "lr": [1e-3, 1e-3, 2e-3, 4e-3, 8e-3], "loss": [2.0, 3.0, 2.0, math.inf, math.nan]}
    arrays = {k: np.array(v) for k, v in columns.items()}
    with pytest.raises(UsageError, match="row 4 has the loss inf"):
        make_table(**arrays)
    table = make_table(**arrays, diverged="drop")
    assert table.dropped == 2 and table.cells[0].lrs == (1e-3, 2e-3) and table.cells[0].losses == (2.5, 2.0)


def test_a_csv_with_other_column_names_is_read(tmp_path):
    runs = sweep({}, 1e-3)
    path = tmp_path / "runs.csv"
    header = "N,D,peak_lr,val,note"
    rows = zip(runs["params"], runs["tokens"], runs["lr"], runs["loss"], strict=True)
    path.write_text("\n".join([header, *(f"{n},{d},{lr},{loss},x" for n, d, lr, loss in rows)]))
    mapped = {"params": "N", "tokens": "D", "lr": "peak_lr", "loss": "val"}
    table = read_table(path, columns=mapped)
    assert len(table.cells) == 12 and math.isnan(table.cells[0].batch)
    assert score_lr_laws(table).blocks == 12
    for columns, words in [
        (mapped | {"loss": "absent"}, "no column 'absent'"),
        ({"params": "N", "tokens": "D", "lr": "peak_lr"}, r"no column 'loss'"),
        (mapped | {"width": "w"}, "Unknown column names"),
        (mapped | {"batch": "B"}, "no column 'B'"),
    ]:
        with pytest.raises(UsageError, match=words):
            read_table(path, columns=columns)
    path.write_text(path.read_text()[:-9])  # the last loss is cut short, but still a number
    with pytest.raises(UsageError, match="truncated"):
        read_table(path, columns=mapped)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"lr": [1e-3], "loss": [2.0]}, "params, tokens or batch"),
        ({"lr": [1e-3, 2e-3], "loss": [2.0], "params": [1e8, 1e8]}, "unequal"),
        ({"lr": [0.0, 2e-3], "loss": [2.0, 2.0], "params": [1e8, 1e8]}, "lr must be positive"),
        ({"lr": [1e-3, 2e-3], "loss": [2.0, 2.0], "params": [1e8, -1]}, "params must be positive"),
        ({"lr": [1e-3, 2e-3], "loss": [2.0, 2.0], "params": [1e8, 2e8]}, "two or more learning rates"),
    ],
)
def test_tables_that_cannot_be_scored_are_refused(arrays, words):
    with pytest.raises(UsageError, match=words):
        make_table(**{k: np.array(v) for k, v in arrays.items()})


def test_one_block_is_not_enough_to_judge_a_constant():
    table = make_table(params=np.full(9, 1e8), lr=LRS, loss=np.log(LRS) ** 2)
    with pytest.raises(UsageError, match="At least 2"):
        score_lr_laws(table, LR_LAWS)
    with pytest.raises(UsageError, match="2 batches"):
        score_joint(make_table(**sweep({}, 1e-3)))


def test_near_rates_are_one_and_no_minimum_falls_below_its_neighbours_by_more_than_their_rise():
    """A text export rounds 2e-3 to 2.001e-3: the parabola through both and 4e-3 had its minimum at 1.6."""
    near = Cell(1, 1, 1, (1e-3, 2e-3, 2.001e-3, 4e-3), (3.05, 3.0, 3.004, 3.05))
    assert near.lrs == pytest.approx((1e-3, 2.0005e-3, 4e-3)) and near.losses == pytest.approx((3.05, 3.002, 3.05))
    rng = np.random.default_rng(0)
    for _ in range(300):
        x, y = np.sort(rng.uniform(-9, -4, 5)), 3 + rng.exponential(0.05, 5)
        cell = Cell(1, 1, 1, tuple(np.exp(x)), tuple(y))
        i = int(np.argmin(cell.losses))
        rise = max(cell.losses[max(i - 1, 0) : i + 2]) - cell.losses[i]
        assert min(cell.losses) - rise <= cell.best_loss <= min(cell.losses)


@pytest.mark.parametrize("gap", [1e-7, 1e-3, 0.019])
def test_a_rate_exported_twice_changes_nothing(gap):
    lrs, losses = (1e-3, 2e-3, 4e-3), (3.05, 3.0, 3.06)
    once, twice = Cell(1, 1, 1, lrs, losses), Cell(1, 1, 1, (*lrs, 2e-3 * (1 + gap)), (*losses, 3.0))
    assert twice.best_loss == pytest.approx(once.best_loss, abs=1e-3)
    assert math.log(twice.best_lr / once.best_lr) == pytest.approx(0, abs=0.02)


def walled(**options):
    runs = sweep({"batch": 0.5}, 2e-6, batches=BATCHES)
    runs["loss"][runs["lr"] > 3 * 2e-6 * runs["batch"] ** 0.5] = math.inf
    return make_table(**runs, **options)


def test_a_diverged_rate_is_a_wall_that_no_law_may_choose():
    table = walled(diverged="wall")
    cell = next(c for c in table.cells if math.isfinite(c.wall))
    assert table.dropped == 0 and walled(diverged="drop").dropped > 0
    assert cell.regret(cell.wall) == cell.regret(10 * cell.wall) > max(cell.losses) - min(cell.losses)
    assert cell.diverges(cell.wall) and not cell.diverges(cell.lrs[-1]) and not cell.clamped(10 * cell.wall)
    high = Law("high", "lr", "1/8", ("params",), power(0.125, params=0.0), "here", "by eye", "none")
    row = by_name(score_lr_laws(table, {"high": high}), "high", False)
    assert row.diverged and not row.recommended and "DIVERGE" in str(row)


def test_a_wall_brackets_the_best_rate_and_ties_take_their_middle():
    edge = Cell(1, 1, 1, (1e-3, 2e-3), (3.1, 3.0), walls=(4e-3,))
    assert not edge.at_edge and edge.best_lr == 2e-3
    assert Cell(1, 1, 1, (1e-3, 2e-3, 4e-3), (3.1, 3.0, math.inf)).wall == 4e-3
    tie = Cell(1, 1, 1, (1e-3, 2e-3, 4e-3, 8e-3), (3.2, 3.0, 3.0, 3.2))
    assert tie.best_lr == pytest.approx(2e-3 * 2**0.5) and tie.best_loss == 3.0


def test_the_tables_own_law_is_a_row_and_wins_where_no_published_exponent_is_right():
    table = make_table(**sweep({"params": -0.15, "tokens": -0.2, "batch": 0.35}, 0.02, batches=BATCHES))
    board = score_lr_laws(table)
    assert board.scores[0].law == "own law" and board.scores[0].recommended and board.scores[0].octaves < 0.01
    fixed = score_lr_laws(table, own=OwnLaw(fixed={"batch": 0.35}, over=["params", "tokens"]))
    assert by_name(fixed, "own law", True).mean_regret == pytest.approx(board.scores[0].mean_regret, abs=1e-6)
    wrong = score_lr_laws(table, own=OwnLaw(fixed={"batch": -1.0}))
    assert by_name(wrong, "own law", True).octaves > 0.5
    assert "2 optima" in score_lr_laws(make_table(**{k: v[:27] for k, v in sweep({}, 1e-3).items()})).skipped["own law"]


def test_a_setting_that_varies_is_refused_or_named_and_can_be_selected(tmp_path):
    path = tmp_path / "t.csv"
    grid = itertools.product((1e8, 4e8), LRS, (0, 0.1), (0, 1))
    rows = [(n, lr, 3 + (math.log2(lr) + 9) ** 2 / 50, wd, seed) for n, lr, wd, seed in grid]
    path.write_text("params,lr,loss,wd,seed\n" + "\n".join(",".join(map(str, row)) for row in rows))
    with pytest.raises(UsageError, match=r"'wd' differs between runs of one scale and learning rate \(0, 0.1\)"):
        read_table(path)
    table = read_table(path, where={"wd": "0.1"})
    assert len(table.cells) == 2 and table.notes == ()
    for where, words in (({"wd": "7"}, "no row has wd=7"), ({"warmup": "1"}, "no column warmup")):
        with pytest.raises(UsageError, match=words):
            read_table(path, where=where)
    lines = [f"1e8,{lr},{loss},{0.1 if lr < 2e-3 else 0.2}" for _, lr, loss, _, _ in rows[::4]]
    path.write_text("\n".join(["params,lr,loss,wd", *lines]))
    assert "'wd' varies inside cells (0.1, 0.2)" in read_table(path).notes[0]


def test_numbers_and_headers_as_people_write_them(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(' params , tokens, lr ,loss\n130M,"2,000_000",1e-3,3.0\n0.13B,2M,2e-3,2.9\n')
    (cell,) = read_table(path).cells
    assert (cell.params, cell.tokens, cell.lrs) == (130e6, 2e6, (1e-3, 2e-3))
    path.write_text("params,lr,loss,loss\n1e8,1e-3,3.0,2.0\n1e8,2e-3,2.9,2.0\n")
    with pytest.raises(UsageError, match="twice: loss"):
        read_table(path)
    path.write_text("params,lr,loss,note,note\n1e8,1e-3,3.0,x,y\n1e8,2e-3,2.9,x,y\n")
    assert len(read_table(path).cells) == 1
