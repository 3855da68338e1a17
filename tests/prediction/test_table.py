"""Facts about reading tables: the caller's names come back, and every kind of bad file is named for what it is."""

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.table import read_columns


def write(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_columns_come_back_under_our_names_in_any_order_and_with_a_byte_order_mark(tmp_path):
    path = write(tmp_path, "\ufeffval_loss,other,peak\n2.5,x,1e-3\n2.25,y,2e-3\n")
    got = read_columns(path, {"lr": "peak", "loss": "val_loss"})
    np.testing.assert_array_equal(got["lr"], [1e-3, 2e-3])
    np.testing.assert_array_equal(got["loss"], [2.5, 2.25])


def test_optional_columns_may_be_missing_and_named_ones_may_be_non_finite(tmp_path):
    path = write(tmp_path, "lr,loss\n1,\n2,inf\n")
    got = read_columns(path, {"lr": "lr", "loss": "loss", "batch": "bs"}, optional=["batch"], nonfinite=["loss"])
    assert set(got) == {"lr", "loss"}
    assert np.isnan(got["loss"][0]) and np.isinf(got["loss"][1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "no column 'lr' .for lr., 'loss' .for loss.*It has: a, b"),
        ("lr,loss\n1,2\n3\n", "line 3: 1 cells where the header has 2.*truncated"),
        ("lr,loss,note\n1,2.125,a\n3,2.1", "line 3: 2 cells where the header has 3.*truncated"),
        ("lr,loss\n1,2,3\n", "line 2: "),
        ("lr,loss\n1,two\n", "line 2, column 'loss': 'two' is not a number"),
        ("lr,loss\n1,nan\n", "'nan' is not finite"),
        ("lr,loss\n1,\n", "not a number"),
        ("lr,loss\n", "no rows"),
        ("", "no rows"),
        (b"\xff\xfe\x00\x01", "Cannot read"),
        ('lr,loss\n1,"2\n', "Cannot read"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        read_columns(write(tmp_path, text), {"lr": "lr", "loss": "loss"})


def test_an_absent_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(UsageError, match="Cannot read"):
            read_columns(path, {"lr": "lr"})
