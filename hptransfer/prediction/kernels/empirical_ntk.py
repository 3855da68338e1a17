"""The tangent kernel of a real network: by per-example Jacobians, or by products only where just its top is
wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.lanczos import EigenPair, extreme_eigenpair
from hptransfer.prediction.curvature.operators import Operator, jacobian_product
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.typed import submodules

Inputs = Tensor | tuple[Tensor, ...]
"""The model's positional arguments, each with examples along its first axis."""

_COUPLING = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)


def empirical_ntk(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    params: Sequence[str] | None = None,
    mean_outputs: bool = True,
    chunk: int = 64,
) -> Tensor:
    """Theta(x1, x2) = sum over parameters of df(x1)/dtheta . df(x2)/dtheta.

    mean_outputs: True gives (n1, n2), the mean over outputs of the diagonal blocks, which tends to the
    infinite-width kernel; False gives (n1, n2, k, k), k outputs per example. params: names of the parameters that
    count (default: all trainable). chunk: examples whose Jacobians are held at once, twice. Raises UsageError where
    batch norm or dropout is in training mode, since an example then has no gradient of its own.
    """
    blocks = empirical_ntk_by_block(model, x1, x2, params=params, mean_outputs=mean_outputs, chunk=chunk)
    return torch.stack(list(blocks.values())).sum(dim=0)


def empirical_ntk_by_block(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    params: Sequence[str] | None = None,
    mean_outputs: bool = True,
    chunk: int = 64,
) -> dict[str, Tensor]:
    """`empirical_ntk`, one kernel per parameter; they sum to the whole. Shapes and errors as there."""
    _refuse_coupled_examples(model)
    space = ParameterSpace.of(model, params)
    left = _pieces(x1, chunk)
    right = left if x2 is None else _pieces(x2, chunk)
    rows: dict[str, list[Tensor]] = {n: [] for n in space.names}
    for a in left:
        ja = _jacobians(model, space, a)
        cells = [_contract(ja, ja if b is a else _jacobians(model, space, b), mean_outputs) for b in right]
        for name in space.names:
            rows[name].append(torch.cat([cell[name] for cell in cells], dim=1))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def ntk_operator(model: nn.Module, inputs: Inputs, *, params: Sequence[str] | None = None) -> Operator:
    """Theta as an operator on vectors of all outputs, (n k,), by one backward and one double backward per product.

    The kernel is never formed: memory is that of one training step's graph. The graph is built here, so the
    parameters must not change while the operator is in use.
    """
    space = ParameterSpace.of(model, params)
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"), torch.enable_grad():
        outputs = model(*_arguments(inputs))
    if not isinstance(outputs, Tensor):
        raise UsageError(f"The model returns {type(outputs).__name__}; the tangent kernel needs one tensor of outputs.")

    def product(vector: Tensor) -> Tensor:
        pulled = torch.autograd.grad(
            outputs, space.tensors, vector.view(outputs.shape), retain_graph=True, allow_unused=True
        )
        return jacobian_product([outputs], space, space.flatten(pulled))[0].reshape(-1)

    return Operator(outputs.numel(), (product,), outputs.dtype, outputs.device)


def ntk_lambda_max(
    model: nn.Module,
    inputs: Inputs,
    *,
    params: Sequence[str] | None = None,
    tolerance: float = 1e-3,
    max_products: int = 200,
    seed: int = 0,
) -> EigenPair:
    """The largest eigenvalue of the (n k x n k) tangent kernel with its residual, without forming the kernel.

    For the mean of half squares over n inputs and k outputs, lambda_max/(n k) is the Gauss-Newton sharpness.
    """
    operator = ntk_operator(model, inputs, params=params)
    return extreme_eigenpair(operator, tolerance=tolerance, max_products=max_products, seed=seed)


def _jacobians(model: nn.Module, space: ParameterSpace, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """df/dtheta by parameter, (n, k, parameter size)."""
    live = dict(zip(space.names, (t.detach() for t in space.tensors), strict=True))

    def one(values: dict[str, Tensor], *example: Tensor) -> Tensor:
        output: Any = functional_call(model, values, tuple(e.unsqueeze(0) for e in example))
        if not isinstance(output, Tensor):
            raise UsageError(
                f"The model returns {type(output).__name__}; the tangent kernel needs one tensor of outputs."
            )
        return output.reshape(-1)

    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        jacobians = vmap(jacrev(one), in_dims=(None, *[0] * len(inputs)))(live, *inputs)
    return {name: j.detach().flatten(2) for name, j in jacobians.items()}


def _contract(a: dict[str, Tensor], b: dict[str, Tensor], mean_outputs: bool) -> dict[str, Tensor]:
    if mean_outputs:
        return {n: torch.einsum("ikp,jkp->ij", a[n], b[n]) / a[n].shape[1] for n in a}
    return {n: torch.einsum("ikp,jlp->ijkl", a[n], b[n]) for n in a}


def _arguments(inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else inputs


def _pieces(inputs: Inputs, chunk: int) -> list[tuple[Tensor, ...]]:
    arguments = _arguments(inputs)
    if chunk < 1 or len({len(a) for a in arguments}) != 1 or len(arguments[0]) == 0:
        raise UsageError(
            f"chunk={chunk}, lengths {[len(a) for a in arguments]}: need chunk >= 1 and equal lengths > 0."
        )
    return list(zip(*(torch.split(a, chunk) for a in arguments), strict=True))


def _refuse_coupled_examples(model: nn.Module) -> None:
    training = [(n, m) for n, m in submodules(model).items() if isinstance(m, _COUPLING) and m.training]
    if coupled := [n for n, m in training if getattr(m, "p", 1.0) > 0]:
        raise UsageError(f"{coupled[:5]} couple or randomise examples in training mode. Call model.eval() first.")
