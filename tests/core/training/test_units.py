"""Units of batch and tokens: read, converted where the recipe says how, and held against the recipe's own batches."""

from __future__ import annotations

import pytest
import torch

from hptransfer import Scale, UsageError
from hptransfer.cli.forecasts.target import scale_in, target
from hptransfer.core.training.units import converted, refuse_other_batch, unit_named
from hptransfer.validation.forecasts.predict import target_steps
from tests.cases.validation import recipe

SEQUENCES = recipe.replace(unit="sequences", tokens_per_example=64)


@pytest.mark.parametrize(
    ("text", "batch", "tokens"),
    [
        ("batch=512,tokens=64M", 512, 64e6),
        ("batch=512seq,tokens=64Mtokens", 512, 1e6),
        ("batch=32768 tokens,tokens=1M sequences", 512, 1e6),
        ("batch=32Ktok", 500, None),
    ],
)
def test_a_target_is_read_in_the_recipes_unit_or_with_its_own(text: str, batch: float, tokens: float | None) -> None:
    assert scale_in(target(text), SEQUENCES) == Scale(batch=batch, tokens=tokens)


def test_tokens_of_an_example_must_be_known_to_convert() -> None:
    with pytest.raises(UsageError, match="tokens_per_example"):
        scale_in(target("batch=4Mtokens"), recipe)
    assert converted(8.0, "images", "examples", None) == 8.0
    assert converted(converted(8.0, "tokens", "sequences", 4.0), "sequences", "tokens", 4.0) == 8.0


@pytest.mark.parametrize("word", ["bytes", "", "tokenz"])
def test_an_unknown_unit_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="no unit of a batch"):
        unit_named(word)


def test_a_base_that_counts_otherwise_than_its_batches_is_refused_with_the_unit_it_counts_in() -> None:
    batch = torch.zeros(16, 65)
    for said, unit in ((16, "sequences"), (16 * 65, "tokens"), (16 * 64, "tokens"), (None, "tokens")):
        refuse_other_batch(batch, said, unit, "x")
    refuse_other_batch((torch.zeros(16, 8), torch.zeros(16)), 16, "examples", "x")
    with pytest.raises(UsageError, match='number of tokens: say unit="tokens"'):
        refuse_other_batch(batch, 1024, "sequences", "x")
    with pytest.raises(UsageError, match='number of examples: say unit="examples"'):
        refuse_other_batch({"a": batch}, 16, "tokens", "x")
    with pytest.raises(UsageError, match="Say the batch that it yields"):
        refuse_other_batch([batch], 17, "images", "x")


def test_tokens_over_batch_are_the_steps() -> None:
    wrong = recipe.replace(base=Scale(width=8, batch=16, tokens=16 * recipe.steps * 64))
    with pytest.raises(UsageError, match=r"trains .* steps, but its base has tokens / batch"):
        target_steps(wrong, Scale(batch=32))
