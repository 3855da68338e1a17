"""The table of ops: it alone knows names, and what a row says is what torch does.

Laws are checked on ops that take one tensor, and settings given in SETTINGS: what f(t x) is to f(x), what f(0) is and
its slope there, signs, shapes. UNCHECKED are the ones whose call needs more than that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import hptransfer
from hptransfer.graph import op_rows
from hptransfer.graph.op_rows import TABLE
from tests.support.versions import TORCH

PACKAGE = Path(hptransfer.__file__).parent
TABLES = {"graph/ops.py", "graph/op_rows.py"}
WORDS = {word for kind in ("Law", "Layout", "Consumes") for word in get_args(getattr(op_rows, kind))}
WORDS |= {"min", "max"}  # names of a clamp's arguments
FIELDS = {"law", "layout", "consumes", "zero", "mixes", "kind", "geometry", "readout_init"}
KINDS = {"output", "placeholder", "call_function", "get_attr"}
NAMES = ({*TABLE} | {f"{name}_" for name in TABLE}) - KINDS


def strings(tree: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def direct(tree: ast.AST) -> set[str]:
    """The strings that one side of a comparison is, or holds; not those given to a call."""
    return set() if isinstance(tree, ast.Call) and getattr(tree.func, "id", "") == "argument" else strings(tree)


def says_a_field(tree: ast.AST) -> bool:
    """`known.law`, `law(node)`: what a row says, not what an op is called."""
    called = tree.func if isinstance(tree, ast.Call) else tree
    return getattr(called, "attr", getattr(called, "id", "")) in FIELDS


def asks_the_name(tree: ast.AST) -> bool:
    """`op(node)`, `use.op` (but not fx's own `node.op == "output"`), `str(node.target)`, `torch.ops.aten.relu`."""
    called = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    names = {n.func.id for n in called if isinstance(n.func, ast.Name)}
    shown = any("target" in ast.dump(n) for n in called if isinstance(n.func, ast.Name) and n.func.id == "str")
    written = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    return shown or bool(names & {"op", "name_of"} or written & {"aten", "op"})


def is_said(tree: ast.AST) -> bool:
    """What a law may be mapped to: a function or words, but no positions or numbers of an op's arguments."""
    return isinstance(tree, (ast.Name, ast.Attribute)) or (isinstance(tree, ast.Constant) and bool(strings(tree)))


def offences(source: str) -> list[str]:
    """Where a file that sees graphs tests what ops are called: every way that we know to write it."""
    tree, found = ast.parse(source), list[str]()
    if "hptransfer.graph" not in source:
        return found
    compared = [n for n in ast.walk(tree) if isinstance(n, ast.Compare)]
    fields = {side for n in compared for side in n.comparators if any(map(says_a_field, (n.left, *n.comparators)))}
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            plain = (strings(node) <= KINDS and strings(node)) or (all(map(asks_the_name, sides)) and not strings(node))
            if not any(map(says_a_field, sides)) and not plain and any(map(asks_the_name, sides)):
                found.append(f"{where}: compares the name of an op")
            elif not any(map(says_a_field, sides)) and (named := set().union(*map(direct, sides)) & NAMES):
                found.append(f"{where}: compares with {sorted(named)}")
        elif isinstance(node, (ast.Set, ast.Dict, ast.Tuple, ast.List)) and node not in fields:
            keys = [k for k in node.keys if k] if isinstance(node, ast.Dict) else node.elts
            held = {k.value for k in keys if isinstance(k, ast.Constant) and isinstance(k.value, str)}
            functions = not isinstance(node, ast.Dict) or all(is_said(v) for v in node.values)
            if held & NAMES and not (held <= WORDS and functions):
                found.append(f"{where}: holds {sorted(held & NAMES)}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            looks = node.func.attr in {"startswith", "endswith", "get", "removeprefix", "removesuffix", "split"}
            if looks and any(asks_the_name(part) for part in (node.func.value, *node.args)):
                found.append(f"{where}: looks into the name of an op")
        elif isinstance(node, (ast.Subscript, ast.Match)):
            looked_up = node.subject if isinstance(node, ast.Match) else node.slice
            if isinstance(looked_up, ast.Call) and asks_the_name(looked_up):
                found.append(f"{where}: looks the name of an op up")
        elif isinstance(node, ast.Assign) and getattr(getattr(node.value, "func", None), "id", "") == "op":
            found.append(f"{where}: keeps the name of an op")
    return found


@pytest.mark.parametrize("path", sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py")))
def test_no_other_file_tests_op_names(path: str) -> None:
    if path not in TABLES:
        assert offences((PACKAGE / path).read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        'op(node) in {"add", "mul"}',
        'op(node) == "linear"',
        'NORMS = {"layer_norm", "rms_norm"}',
        'SIZES = {"linear": (1, 2), "addmm": (2, 0)}',
        'op(node).startswith("conv")',
        '"conv" in op(node)',
        "kind = op(node)",
        "TABLE.get(op(node))",
        "TABLE[op(node)]",
        "node.target == torch.ops.aten.relu.default",
        'str(node.target).split(".")[0] in NAMES',
        'use.op == "matmul"',
        'frozenset(("softmax", "_softmax"))',
        "op(node) in NAMES",
    ],
)
def test_the_scan_sees_every_way_to_test_a_name(line: str) -> None:
    assert offences(f"from hptransfer.graph.ops import op\n{line}\n")


@pytest.mark.parametrize("line", ['law(node) == "sum"', 'known.law in {"sum", "mean"}', 'node.op == "output"'])
def test_the_scan_lets_what_rows_say_pass(line: str) -> None:
    assert not offences(f"from hptransfer.graph.ops import law\n{line}\n")


# What the rows say, against torch

CHECKED = {"view", "power", "bend", "clamp", "softmax", "sum", "scan", "mean", "norm", "spread", "extreme", "normalise"}
SETTINGS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("cumsum", "cummax", "cummin", "logcumsumexp", "cumprod", "glu", "unbind"), (-1,)),
    **dict.fromkeys(("logsumexp", "amax", "amin", "squeeze"), ([-1],)),
    **dict.fromkeys(("softmax", "special_softmax", "_safe_softmax", "log_softmax"), (-1,)),
    **dict.fromkeys(("_softmax", "_log_softmax"), (-1, False)),
    **dict.fromkeys(("dropout", "feature_dropout", "native_dropout"), (0.0, True)),
    **dict.fromkeys(("chunk", "tensor_split", "unsafe_chunk", "select"), (2,)),
    **dict.fromkeys(("split", "unsafe_split"), (3,)),
    "select": (1, 2), "diagonal": (), "narrow": (1, 1, 2), "split_with_sizes": ([2, 4], 1), "slice": (1, 0, 2),
    "flip": ([1],), "rot90": (), "roll": ([1], [1]), "repeat_interleave": (2,), "unsqueeze": (1,), "permute": ([1, 0],),
    "transpose": (0, 1), "swapaxes": (0, 1), "swapdims": (0, 1), "movedim": (0, 1), "repeat": ([2, 1],),
    "expand": ([6, 6],), "broadcast_to": ([2, 6, 6],), "tile": ([2, 1],), "view": ([36],), "_unsafe_view": ([36],),
    "reshape": ([36],), "flatten": (), "unflatten": (1, [2, 3]), "unfold": (1, 2, 1), "topk": (2,), "kthvalue": (2,),
    "pow": (3.0,), "clamp": (-0.5, 0.5), "clamp_min": (-0.5,), "clamp_max": (0.5,), "clip": (-0.5, 0.5),
    "threshold": (0.1, 0.0), "pad": ([1, 1],), "constant_pad_nd": ([1, 1],), "cosine_similarity": (torch.ones(6, 6),),
    "layer_norm": ([6],), "native_layer_norm": ([6], None, None, 1e-9), "rms_norm": ([6],),
    "group_norm": (2,), "batch_norm": (None, None, None, None, True, 0.1, 1e-9, False),
    "instance_norm": (None, None, None, None, True, 0.1, 1e-9, False), "rrelu": (0.1, 0.1),
    "prelu": (torch.tensor([0.2]),), "_prelu_kernel": (torch.tensor(0.2),), "masked_fill": (torch.eye(6) > 0, 0.0),
    "moveaxis": (0, 1), "hsplit": (2,), "vsplit": (2,), "linalg_matrix_exp": (),
    "linalg_vector_norm": (), "std": (), "var": (),
}  # fmt: skip
"""Op -> the arguments behind its tensor, which is 6 x 6."""

MORE = """
as_strided masked_select diag_embed take_along_dim im2col col2im fold pixel_shuffle pixel_unshuffle channel_shuffle
grid_sampler grid_sampler_2d grid_sampler_3d rrelu_with_noise native_batch_norm native_group_norm cudnn_batch_norm
_fused_rms_norm kl_div binary_cross_entropy binary_cross_entropy_with_logits threshold linalg_solve polar
type_as view_as reshape_as expand_as to _to_copy float half bfloat16 double getitem requires_grad lift_fresh_copy
_reshape_alias _conj mT matrix_H adjoint mH t numpy_T linalg_matrix_norm linalg_inv_ex log_sigmoid_forward aminmax
broadcast_in_dim _weight_norm dsplit index_fill _add_batch_dim _remove_batch_dim view_as_complex view_as_real zero imag
"""
"""Need images, windows, indices or a kernel's arguments, a second tensor or a type, or are no ops of aten."""

UNCHECKED = {
    *MORE.split(),
    *(n for n, known in TABLE.items() if "pool" in n or "_pad" in n or known.resizes or "loss" in n),
    *(n for n in TABLE if "norm_" in n or n.endswith("_with_update") or n.startswith("_native") or "fftshift" in n),
}
"""Ops whose rows no call with one 6 x 6 tensor can check."""


def unary() -> list[str]:
    return sorted(name for name, known in TABLE.items() if known.law in CHECKED and name not in UNCHECKED)


def test_every_name_is_an_op_of_torch() -> None:
    outside = {name for name in TABLE if not hasattr(torch.ops.aten, name)}
    of_tensors = {"bfloat16", "double", "float", "half", "requires_grad", "fold", "unique"}
    if TORCH < "2.13":
        outside -= {"_fused_rms_norm", "_grouped_mm", "sym_is_contiguous"}  # 2.6 has none of them
    assert outside == {"output", "getitem", "broadcast_in_dim", "grouped_mm", "grouped_mm_fallback", *of_tensors}


def results(name: str, x: Tensor) -> list[Tensor]:
    made = getattr(torch.ops.aten, name)(x, *SETTINGS.get(name, ()))
    parts = made if isinstance(made, (tuple, list)) else (made,)
    kept = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    return kept[:1] if TABLE[name].law in {"normalise", "spread"} else kept


def matrices(name: str) -> Iterator[Tensor]:
    """Entries of both signs where the op takes them, else of its domain."""
    generator = torch.Generator().manual_seed(0)
    for low, high in ((-3.0, 3.0), (-0.45, 0.45), (0.05, 0.45), (1.1, 3.0)):
        x = low + (high - low) * torch.rand(6, 6, generator=generator, dtype=torch.float64)
        if name in {"prelu", "_prelu_kernel"}:
            x = x.float()
        if name == "cosine_similarity":
            x = x.float()
        if all(part.isfinite().all() for part in results(name, x)):
            yield x
            return


def degree_of(name: str) -> float:
    known = TABLE[name]
    return float(SETTINGS[name][0]) if name == "pow" else 1.0 if known.law not in {"power", "spread"} else known.degree


@pytest.mark.parametrize("name", [n for n in unary() if TABLE[n].law not in {"bend", "clamp", "softmax", "normalise"}])
def test_a_scale_leaves_as_the_law_says(name: str) -> None:
    for x in matrices(name):
        for before, after in zip(results(name, x), results(name, 3 * x), strict=True):
            torch.testing.assert_close(after, 3 ** degree_of(name) * before, rtol=1e-5, atol=1e-7)


OF_A_MATRIX = {"linalg_inv", "linalg_det", "prod", "cumprod"}
"""Of a degree that depends on the size, or -1 with entries that depend on all of a matrix: no law for entries."""


@pytest.mark.parametrize("name", [n for n in unary() if TABLE[n].law in {"bend", "clamp"} and n not in OF_A_MATRIX])
def test_a_bend_has_no_degree(name: str) -> None:
    """f(tx) / f(x) is not one number for all x, as it is for a homogeneous f. Of a single number f: not t^p twice."""
    (x,) = matrices(name)
    t = 1.5 if x.min() > 1 else 0.25 if x.max() < 1 else 4.0
    before, after, further = (results(name, factor * x)[0] for factor in (1.0, t, t * t))
    if before.dim() == 0:
        assert not torch.isclose(after / before, further / after, rtol=1e-3)
        return
    known = after.isfinite() & ((before != 0) | (after != 0))
    ratios = (after / before)[known]
    assert ratios.max() - ratios.min() > 1e-3


@pytest.mark.parametrize("name", [n for n in unary() if TABLE[n].law == "softmax"])
def test_a_softmax_sums_to_one(name: str) -> None:
    (x,) = matrices(name)
    torch.testing.assert_close(results(name, x)[0].sum(-1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("name", [n for n in unary() if TABLE[n].law == "normalise"])
def test_a_norm_forgets_the_scale(name: str) -> None:
    (x,) = matrices(name)
    x = x[None] if name == "instance_norm" else x
    torch.testing.assert_close(results(name, 1e3 * x)[0], results(name, 1e2 * x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in unary() if TABLE[n].law in {"power", "bend", "softmax", "norm", "spread"}])
def test_the_sign_that_a_row_promises(name: str) -> None:
    """No entry of a positive one is negative, at whatever entries; of the other functions one is, somewhere."""
    (x,) = matrices(name)
    made = [part for scale in (1e-3, 0.1, 0.3, 1.0) for part in results(name, scale * x)]
    least = min(float(part.min()) for part in made if part.isfinite().all())
    assert (least >= 0) if TABLE[name].positive else (least < 0 or name in NEVER_NEGATIVE_HERE)


NEVER_NEGATIVE_HERE = {"acos", "pow", "angle", "prod", "linalg_det", "logsumexp"}
"""Their sign depends on what this test does not vary."""


@pytest.mark.parametrize(
    "name", [n for n in unary() if TABLE[n].law in {"power", "bend"} and n != "pow" and TABLE[n].layout]
)
def test_value_and_slope_at_zero(name: str) -> None:
    x = torch.zeros(6, 6, dtype=torch.float32 if "prelu" in name else torch.float64, requires_grad=True)
    (value,) = results(name, x)[:1]
    (slope,) = torch.autograd.grad(value.sum(), x, allow_unused=True) if value.requires_grad else (None,)
    steep = 0.0 if slope is None else float(slope.abs().max())
    zero = bool((value == 0).all())
    kind = "odd" if zero and 0 < steep < float("inf") else "flat" if zero and steep == 0 else ""
    kind = "singular" if steep != steep or steep == float("inf") or not value.isfinite().all() else kind
    assert TABLE[name].zero == kind


@pytest.mark.parametrize("name", [n for n in unary() if TABLE[n].layout == "same" and TABLE[n].pointwise])
def test_a_pointwise_function_keeps_the_shape(name: str) -> None:
    (x,) = matrices(name)
    assert results(name, x)[0].shape == x.shape
