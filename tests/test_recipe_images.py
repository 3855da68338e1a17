"""recipes/resnet.py on images in MNIST's format: read exactly, split once, refused where they are not that."""

import gzip
import struct
import sys
from pathlib import Path

import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import train
from hptransfer.core.training.recipe import Recipe, load_recipe

RESNET = Path(__file__).parent.parent / "recipes" / "resnet.py"
FASHION = Path("/usr/share/datasets/fashion-mnist")


def idx(values: torch.Tensor, kind: int = 8) -> bytes:
    """Bytes in MNIST's format."""
    head = struct.pack(f">i{values.dim()}i", (kind << 8) + values.dim(), *values.shape)
    return head + bytes(values.flatten().tolist())


def write(folder: Path, images: bytes, labels: bytes, *, packed: bool = True) -> None:
    for name, content in (("images-idx3", images), ("labels-idx1", labels)):
        path = folder / f"train-{name}-ubyte"
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content)) if packed else path.write_bytes(content)


def recipe_on(folder: Path, monkeypatch) -> Recipe:
    monkeypatch.setenv("HPTRANSFER_IMAGES", str(folder))
    return load_recipe(str(RESNET))


@pytest.mark.parametrize("packed", [True, False])
def test_every_image_is_read_with_its_label(packed, tmp_path, monkeypatch):
    labels = torch.arange(60) % 10
    images = labels[:, None, None].expand(60, 6, 5) * 20  # an image is its label, 20 times as bright
    write(tmp_path, idx(images), idx(labels), packed=packed)
    recipe = recipe_on(tmp_path, monkeypatch)
    seen, told = sys.modules["hptransfer_recipe_resnet"].data()
    assert seen.shape == (60, 1, 6, 5) and sorted(told.tolist()) == sorted(labels.tolist())
    assert abs(seen.mean()) < 1e-5 and abs(seen.std() - 1) < 1e-5
    levels = seen[:, 0, 0, 0]
    assert torch.corrcoef(torch.stack([levels, told.float()]))[0, 1] > 1 - 1e-6
    (held,) = recipe.validation()
    assert len(held[1]) == 5  # a twelfth
    assert recipe.example_inputs()[0].shape == (2, 1, 6, 5)


def test_held_out_images_are_never_drawn(tmp_path, monkeypatch):
    images = torch.arange(120)[:, None, None].expand(120, 4, 4)
    write(tmp_path, idx(images), idx(torch.arange(120) % 10))
    recipe = recipe_on(tmp_path, monkeypatch)
    held = set(recipe.validation()[0][0][:, 0, 0, 0].tolist())
    batches = recipe.batches(recipe.base, 0)
    drawn = {value for _ in range(30) for value in next(batches)[0][:, 0, 0, 0].tolist()}
    assert len(held) == 10 and not held & drawn and len(drawn) == 110


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (b"", idx(torch.arange(12)), "cannot read"),
        (idx(torch.zeros(12, 4, 4, dtype=torch.int))[:-1], idx(torch.arange(12)), "cannot read"),
        (idx(torch.zeros(12, 4, 4, dtype=torch.int), kind=13), idx(torch.arange(12)), "its first bytes are 00000d03"),
        (idx(torch.zeros(12, 4, 4, dtype=torch.int)), idx(torch.arange(11)), "do not match"),
        (idx(torch.zeros(12, 4, dtype=torch.int)), idx(torch.arange(12)), "do not match"),
    ],
    ids=["empty", "cut off", "floats", "one label short", "no images"],
)
def test_what_is_not_mnist_s_format_is_refused(images, labels, match, tmp_path, monkeypatch):
    write(tmp_path, images, labels)
    with pytest.raises(UsageError, match=match):
        recipe_on(tmp_path, monkeypatch).validation()


def test_a_missing_directory_is_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"nowhere/train-images-idx3-ubyte.*Give a directory"):
        recipe_on(tmp_path / "nowhere", monkeypatch).validation()


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_is_read_and_learnt(monkeypatch):
    recipe = recipe_on(FASHION, monkeypatch)
    images, labels = sys.modules["hptransfer_recipe_resnet"].data()
    assert images.shape == (60000, 1, 28, 28) and labels.bincount().tolist() == [6000] * 10
    torch.manual_seed(0)
    model = recipe.build(recipe.base)
    start = recipe.loss(model, recipe.validation()[0]).item()
    result = train(
        recipe.replace(steps=20), model, recipe.optimizer(model.parameters(), lr=2**-6), scale=recipe.base, seed=0
    )
    assert result.val_loss < 0.8 * start
