"""Loss over width: exact on a power law, and its interval covers as it says."""

import numpy as np
import pytest

from hptransfer import UsageError
from hptransfer.prediction.forecast.width_law import loss_at_size

SIZES = np.array([1e3, 4e3, 16e3, 64e3])


def test_a_power_law_is_continued_exactly():
    found = loss_at_size(SIZES, 5 * SIZES**-0.1, 1e6)
    assert found.value == pytest.approx(5 * 1e6**-0.1)
    assert found.high - found.low < 1e-9


def test_the_interval_covers_a_new_run_nine_times_in_ten():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        noise = np.exp(rng.normal(0, 0.02, 5))
        found = loss_at_size(SIZES, 5 * SIZES**-0.1 * noise[:4], 512e3)
        hits += found.low <= 5 * 512e3**-0.1 * noise[4] <= found.high
    assert hits / 1000 == pytest.approx(0.9, abs=0.03)  # three standard errors of a proportion over 1000 draws


@pytest.mark.parametrize("sizes", [[1e3, 1e3, 1e3], [1e3, 2e3]])
def test_fewer_than_three_sizes_are_refused(sizes):
    with pytest.raises(UsageError, match="3 sizes"):
        loss_at_size(sizes, [1.0] * len(sizes), 1e6)
