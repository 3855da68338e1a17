"""Which base parameter a target parameter is measured against."""

from __future__ import annotations

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.parametrization.matching.names import Counterparts, match_names


def test_the_same_name_comes_first_then_the_nearest_layer_of_the_template() -> None:
    base = ["h.0.w", "h.1.w", "stage.0.block.0.w", "stage.1.block.0.w", "head.w"]
    target = ["h.0.w", "h.5.w", "stage.0.block.7.w", "stage.1.block.3.w", "head.w"]
    assert match_names(target, base) == dict(
        zip(target, ["h.0.w", "h.1.w", "stage.0.block.0.w", "stage.1.block.0.w", "head.w"], strict=True)
    )


def test_a_name_without_counterpart_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'extra.w' of the model has no counterpart in the base"):
        match_names(["a.w", "extra.w"], ["a.w"])


def test_digits_inside_names_are_no_indices() -> None:
    assert Counterparts(["conv1.w"]).of("conv2.w") is None
    assert Counterparts(["layers.0.w1"]).of("layers.3.w1") == "layers.0.w1"
