"""Recipes: the default schedule, scales and files, with what each refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import finish, thin, to_device, train
from hptransfer.core.training.recipe import Scale, load_recipe, warmup_linear
from tests.cases.validation import recipe


@pytest.mark.parametrize("warmup", [0.1, 0.4])
def test_the_default_schedule_rises_to_one_and_falls_to_zero(warmup: float) -> None:
    """Two straight lines: (0, 0) to (warmup, 1) to (1, 0)."""
    for progress in (0.02, 0.05, warmup, 0.5, 0.75, 0.999):
        expected = min(progress / warmup, (1 - progress) / (1 - warmup))
        assert warmup_linear(progress, warmup=warmup) == pytest.approx(expected)
    assert warmup_linear(0.05) == warmup_linear(0.05, warmup=0.1) == 0.5


@pytest.mark.parametrize("axis", ["width", "depth", "batch", "tokens"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_a_scale_is_positive_and_finite(axis: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"Scale\({axis}=.*must be a positive finite number"):
        Scale(**{axis: value})
    assert str(Scale(**{axis: 0.5})) == f"{axis}=0.5" and str(Scale()) == "unscaled"


def test_at_least_one_step_and_known_fields() -> None:
    assert recipe.replace(steps=1).steps == 1
    with pytest.raises(UsageError, match="steps=0, but at least 1"):
        recipe.replace(steps=0)
    with pytest.raises(UsageError, match=r"unknown fields \['step'\]"):
        recipe.replace(quick={"step": 3})
    assert recipe.replace(quick={"steps": 3}).quickened().steps == 3


class Pair(NamedTuple):
    a: torch.Tensor
    b: int


FILE = """\
from tests.cases.validation import recipe
other = recipe.replace(name="other")
def built():
    return recipe.replace(name="built")
number = 3
"""


def test_a_file_s_recipe_is_named_or_the_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    assert load_recipe(str(path)).name == recipe.name
    assert load_recipe(f"{path}:other").name == "other" and load_recipe(f"{path}:built").name == "built"
    odd = tmp_path / "od:d.py"
    odd.write_text(FILE)
    assert load_recipe(str(odd)).name == recipe.name  # a colon in an existing path is no name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.py", r"No recipe file at '.*none.py'"),
        ("mine.py:absent", r"no recipe named 'absent'. It has \['other', 'recipe'\]"),
        ("mine.py:number", r"no recipe named 'number'"),
        ("broken.py", r"broken.py raised ZeroDivisionError while being loaded"),
        ("text.txt", r"text.txt is not a Python file"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "text.txt").write_text("recipe\n")
    with pytest.raises(UsageError, match=message):
        load_recipe(str(tmp_path / spec))


def test_the_final_training_loss_is_the_mean_of_the_last_tenth() -> None:
    for steps in (1, 5, 10, 11, 40, 45):
        losses = [float(t) for t in range(steps)]
        result = finish(losses, val_loss=1.0, diverged=False, seconds=2.0)
        last = max(1, math.ceil(steps / 10))
        assert result.train_loss == pytest.approx(sum(losses[-last:]) / last) and result.steps == steps
        assert not result.diverged and result.val_loss == 1.0


def test_a_diverged_run_has_infinite_losses_and_the_finite_part_of_its_curve() -> None:
    result = finish([2.0, 4.0, math.nan], val_loss=1.0, diverged=True, seconds=2.0)
    assert (result.val_loss, result.train_loss, result.diverged, result.steps) == (math.inf, math.inf, True, 3)
    assert result.curve == ((1, 2.0), (2, 4.0))
    assert finish([math.nan], val_loss=1.0, diverged=True, seconds=0.0).curve == ()
    assert finish([1.0], val_loss=math.nan, diverged=False, seconds=0.0).diverged


@pytest.mark.parametrize("count", [1, 39, 40, 41, 100])
def test_a_thinned_curve_keeps_the_sum(count: int) -> None:
    losses = torch.rand(count, generator=torch.Generator().manual_seed(0)).tolist()
    curve = thin(losses)
    assert len(curve) == min(count, 40) and curve[-1][0] == count
    ends = [0, *(end for end, _ in curve)]
    assert sum(mean * (b - a) for (_, mean), a, b in zip(curve, ends, ends[1:], strict=False)) == pytest.approx(
        sum(losses)
    )


def test_batches_move_whole_whatever_they_are_nested_in() -> None:
    """A named tuple stays one; what is no tensor stays. "meta" stands for another device."""
    moved = to_device({"x": [torch.zeros(2)], "y": (torch.zeros(3), "label"), "z": Pair(torch.zeros(1), 4)}, "meta")
    assert moved["x"][0].device.type == moved["y"][0].device.type == moved["z"].a.device.type == "meta"
    assert moved["y"][1] == "label" and moved["z"].b == 4 and isinstance(moved["z"], Pair)
    assert isinstance(moved["x"], list) and isinstance(moved["y"], tuple)


def test_a_rate_kept_in_a_tensor_stays_in_that_tensor_and_is_restored() -> None:
    torch.manual_seed(0)
    model = recipe.build(Scale(width=8))
    rate = torch.tensor(0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    seen: list[float] = []
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append(float(opt.param_groups[0]["lr"])))
    train(recipe, model, optimizer, scale=Scale(width=8), seed=0)
    assert optimizer.param_groups[0]["lr"] is rate and float(rate) == pytest.approx(0.01)
    factors = [recipe.schedule((t + 0.5) / recipe.steps) for t in range(recipe.steps)]
    assert seen == pytest.approx([0.01 * factor for factor in factors])


def test_on_step_sees_every_loss_in_order() -> None:
    torch.manual_seed(0)
    model = recipe.build(Scale(width=8))
    seen: list[tuple[int, float]] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    result = train(recipe, model, optimizer, scale=Scale(width=8), seed=0, on_step=lambda *step: seen.append(step))
    assert [t for t, _ in seen] == list(range(recipe.steps))
    assert [loss for _, loss in seen] == [loss for _, loss in result.curve]


@pytest.mark.parametrize("steps", [15, 16, 20, 33])
def test_losses_that_are_read_rarely_are_the_same_losses(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator losses wait for each other, 16 at a time; "xla" stands for one, with the batches left here."""
    results = []
    for device in ("cpu", "xla"):
        torch.manual_seed(0)
        model = recipe.build(Scale(width=8))
        if device == "xla":
            monkeypatch.setattr("hptransfer.core.training.loop.to_device", lambda batch, device: batch)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        longer = recipe.replace(steps=steps)
        results.append(train(longer, model, optimizer, scale=Scale(width=8), seed=0, device=device))
    cpu, other = results
    assert other.steps == cpu.steps == steps
    assert (other.curve, other.val_loss, other.train_loss) == (cpu.curve, cpu.val_loss, cpu.train_loss)
