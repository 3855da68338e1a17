"""What ops do with a positive scale of their operands: pass it on, hold it in their weights, or do not notice it."""

from __future__ import annotations

import math

from torch import Tensor, fx

from hptransfer.graph.axes import RESHAPES, SAME
from hptransfer.graph.ops import op

PASSES = (
    SAME
    | RESHAPES
    | {
        "t", "numpy_T", "mT", "transpose", "permute", "movedim", "swapaxes", "unsqueeze", "squeeze", "select", "unbind",
        "getitem", "expand", "repeat", "tile", "broadcast_to", "index", "index_select", "gather", "relu", "relu_",
        "leaky_relu", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "mean", "sum",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "cumsum", "upsample_nearest2d",
        "upsample_bilinear2d", "zero_", "pixel_shuffle", "unfold", "dropout_", "feature_dropout",
        "view_as_complex", "view_as_real", "as_strided",
    }
)  # fmt: skip
"""Ops through which a positive scale of the first argument passes unchanged."""

WEIGHTED = {
    "linear": (1, 2), "addmm": (2, 0), "conv1d": (1, 2), "conv2d": (1, 2), "conv3d": (1, 2), "conv_transpose1d": (1, 2),
    "conv_transpose2d": (1, 2), "conv_transpose3d": (1, 2), "layer_norm": (2, 3), "rms_norm": (2, None),
    "group_norm": (2, 3), "batch_norm": (1, 2), "instance_norm": (1, 2), "embedding": (0, None),
}  # fmt: skip
"""Positions of (weight, bias): scaling both scales the op's output."""

CONTRACTIONS = {"matmul", "mm", "bmm", "mv", "_grouped_mm"}
NORMS = {"layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"}
ZEROS = {"zeros", "zeros_like", "new_zeros"}


def masks(node: fx.Node) -> bool:
    """A fill or a padding with zeros or infinities, which no scale changes, or with copies of the values."""
    if op(node) in {"pad", "constant_pad_nd"}:
        copies = len(node.args) > 2 and node.args[2] in {"reflect", "replicate", "circular"}
        fill = node.args[3] if len(node.args) > 3 else node.kwargs.get("value") or 0
        return copies or (isinstance(fill, (int, float)) and fill == 0)
    fill = node.args[2] if op(node) in {"masked_fill", "masked_fill_"} else None
    return isinstance(fill, (int, float)) and (fill == 0 or math.isinf(fill))


def is_index(node: fx.Node) -> bool:
    """Where the largest entries lie: the same at any scale."""
    value = node.meta.get("val")
    return op(node) == "getitem" and isinstance(value, Tensor) and not value.is_floating_point()


def is_extreme(node: fx.Node) -> bool:
    """The largest or smallest entries along an axis, not of two tensors."""
    return op(node) in {"amax", "amin"} or (
        op(node) in {"max", "min"} and not any(isinstance(other, fx.Node) for other in node.args[1:])
    )


def argument(node: fx.Node, position: int | None) -> object:
    """A positional argument, or the keyword that stands for it."""
    if position is None:
        return None
    if len(node.args) > position:
        return node.args[position]
    names = {"bias": {2, 3}, "weight": {1, 2}}
    return next((node.kwargs[k] for k, at in names.items() if position in at and k in node.kwargs), None)
