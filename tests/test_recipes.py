"""Every recipe trains on real data: seeded, with a validation split that training never sees."""

import math
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import train
from hptransfer.core.training.recipe import Recipe, load_recipe
from hptransfer.parametrization.make import make_plan

RECIPES = Path(__file__).parent.parent / "recipes"
FILES = sorted(RECIPES.glob("*.py"))
CLASSES = {"mlp": 10, "resnet": 10, "gpt": 256}


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def recipe(request) -> Recipe:
    return load_recipe(str(request.param))


def flat(batch) -> list[torch.Tensor]:
    return [batch] if isinstance(batch, torch.Tensor) else list(batch)


def test_the_recipe_is_named_after_its_file_and_its_base_is_one_of_its_widths(recipe):
    assert (RECIPES / f"{recipe.name}.py").exists()
    assert recipe.base.width in recipe.widths
    assert max(recipe.widths) >= 8 * min(recipe.widths)
    assert recipe.seeds >= 3
    assert set(recipe.quickened().widths) < set(recipe.widths)


def test_a_seed_decides_the_data_and_another_seed_gives_other_data(recipe):
    def first(seed):
        return [t for batch in islice(recipe.batches(recipe.base, seed), 3) for t in flat(batch)]

    assert all(torch.equal(a, b) for a, b in zip(first(0), first(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first(0), first(1), strict=True))


def test_the_batch_size_follows_the_scale(recipe):
    batch = next(recipe.batches(replace(recipe.base, batch=5), 0))
    assert all(len(t) == 5 for t in flat(batch))


def test_training_never_sees_a_validation_row(recipe):
    """On digits no image of the validation set is drawn (a few of the data set's images are duplicates of others)."""
    if recipe.name == "gpt":
        train_bytes, validation_bytes = sys.modules["hptransfer_recipe_gpt"].text()
        assert len(train_bytes) > 8 * len(validation_bytes) > 100_000
        return
    held_out = {tuple(row.flatten().tolist()) for images, _ in recipe.validation() for row in images}
    drawn = {tuple(r.flatten().tolist()) for x, _ in islice(recipe.batches(recipe.base, 0), 300) for r in x}
    assert len(drawn) > 1100  # nearly all 1200 training rows
    assert len(drawn & held_out) <= 2


def test_an_untrained_model_knows_nothing_and_a_short_run_learns(recipe):
    """It starts near log(classes), and 30 steps improve on it.

    Logits of std s add s^2/2, and ours have s <= 1.6: 1.28. The mean logit of the true classes is not zero either: the
    bytes of the text have sum p^2 = .105, so its std over draws of the weights is 1.6 x .105^.5 = .52; allow three.
    """
    torch.manual_seed(0)
    model = recipe.build(recipe.base)
    with torch.no_grad():
        start = torch.stack([recipe.loss(model, b) for b in recipe.validation()]).mean().item()
    assert abs(start - math.log(CLASSES[recipe.name])) < 1.28 + 3 * 0.52
    optimizer = recipe.optimizer(model.parameters(), lr=2**-6, **recipe.optimizer_options)
    result = train(recipe.replace(steps=30), model, optimizer, scale=recipe.base, seed=0)
    assert not result.diverged and result.val_loss < 0.9 * start


def test_the_plan_settles_every_role_without_a_hook(recipe):
    torch.manual_seed(0)
    model, base = recipe.build(recipe.base.with_(width=max(recipe.widths))), recipe.build(recipe.base)
    plan = make_plan(model, base=base, example_inputs=recipe.example_inputs(), optimizer=recipe.optimizer)
    assert not plan.hooks and not plan.is_identity
    assert {row.role for row in plan} >= {"input", "hidden", "readout", "vector"}


@pytest.mark.parametrize(("file", "width"), [("gpt", 18), ("resnet", 18)])
def test_a_width_that_does_not_divide_is_refused(file, width):
    found = load_recipe(str(RECIPES / f"{file}.py"))
    with pytest.raises(UsageError, match="multiple of 4"):
        found.build(found.base.with_(width=width))


def test_depth_is_the_number_of_blocks():
    found = load_recipe(str(RECIPES / "gpt.py"))
    assert len(found.build(found.base.with_(depth=5)).blocks) == 5


def test_the_gpt_is_causal():
    found = load_recipe(str(RECIPES / "gpt.py"))
    torch.manual_seed(0)
    model, text = found.build(found.base), torch.randint(256, (1, 64))
    changed = text.clone()
    changed[0, 40:] = 0
    with torch.no_grad():
        before, after = model(text), model(changed)
    assert torch.equal(before[:, :40], after[:, :40]) and not torch.equal(before, after)


@pytest.mark.parametrize(
    ("content", "match"), [(None, "cannot read"), (b"", "cannot read"), (b"too short", "at least")]
)
def test_a_useless_text_file_is_refused(content, match, tmp_path, monkeypatch):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    monkeypatch.setenv("HPTRANSFER_TEXT", str(tmp_path / "text"))
    with pytest.raises(UsageError, match=match):
        load_recipe(str(RECIPES / "gpt.py")).validation()


def test_a_recipe_run_as_a_script_trains_once_and_prints_the_loss(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 100)
    command = [sys.executable, str(RECIPES / "gpt.py"), "--text", str(text)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gpt: width") and done.stderr == ""
    assert float(done.stdout.split("validation loss ")[1].split()[0]) < 1.0  # 44 bytes repeated are learnt by heart
    wrong = subprocess.run([*command[:2], "--txt", "x"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "usage" in wrong.stderr
