"""The copy of a model that is run: nothing of the original is in it; what cannot be copied or followed is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.core.errors import UsageError
from hptransfer.graph.ops import op
from hptransfer.graph.recorded.copied import copied_inputs, runnable
from hptransfer.graph.recorded.run import recorded_graph
from hptransfer.graph.trace import trace

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Norm(nn.Module):
    """Looks at its data, and changes buffers when it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x))
        return y if y.sum() < 1e9 else -y


def compiled(model: Norm) -> None:
    model.forward = torch.compile(model.forward, backend="eager")


def closure(model: Norm) -> None:
    before = model.forward

    def forward(x: Tensor, *, twice: float = 2.0) -> Tensor:
        return before(x) * twice

    model.forward = forward


def nested(model: Norm) -> None:
    closure(model)
    closure(model)


def hook(model: Norm) -> None:
    model.a.register_forward_hook(lambda module, args, output: model.norm(output))


def in_a_list(model: Norm) -> None:
    model.steps = [lambda x: model.norm(x)]  # type: ignore[assignment]
    model.forward = lambda x: model.steps[0](model.a(x) * float(model.a(x).abs().max() < 1e9))  # type: ignore


@pytest.mark.parametrize("change", [compiled, closure, nested, hook, in_a_list])
def test_functions_that_hold_the_model_hold_the_copy(change: Callable[[Norm], None]) -> None:
    model = Norm()
    change(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = trace(model, (ROWS,))
    assert graph.ran and {name for name, node in graph.parameters.items() if node.users} == set(graph.parameters)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with torch.no_grad():
        model(ROWS)
    assert int(model.norm.num_batches_tracked) == (2 if change is hook else 1)


HELD: list[nn.Module] = []


def test_a_model_reached_from_elsewhere_is_refused() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = HELD[0](x)
            return y if y.sum() < 1e9 else -y

    model = Net()
    model.a = Norm()
    HELD[:] = [model.a]
    with pytest.raises(UsageError, match=r"reads parameter 'a.[\w.]+' through .* function that holds the model itself"):
        trace(model, (ROWS,))
    assert int(model.a.norm.num_batches_tracked) == 0 and not model.a.norm.running_mean.any()  # type: ignore


class Held(nn.Module):
    """keep: what it keeps in an attribute, from its weight."""

    def __init__(self, keep: Callable[[nn.Parameter], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.kept = keep(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat(self.kept) if isinstance(self.kept, list) else self.weight
        y = F.linear(x, weight) * getattr(self.weight, "scale", 1.0)
        return y if y.sum() < 1e9 else -y


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda w: [w[:2], w[2:]], "reads parameter 'weight' through a view of it kept in an attribute"),
        (lambda w: [w.detach()[:2], w.data[2:]], "reads parameter 'weight' through a view of it kept in an attribute"),
        (lambda w: (i for i in range(3)), "a copy of it could not be made .*TypeError.*generator"),
    ],
)
def test_what_cannot_be_copied_or_followed_is_refused(keep: Callable[[nn.Parameter], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trace(Held(keep), (ROWS,))


def test_lazy_parameters_are_refused() -> None:
    with pytest.raises(UsageError, match="lazy parameters, whose shapes are not known; call the model once"):
        trace(nn.Sequential(nn.LazyLinear(3)), (ROWS,))


def test_attributes_of_parameters_are_the_copy_s_too() -> None:
    model = Held(lambda w: None)
    model.weight.scale = 3.0  # type: ignore[attr-defined]
    graph = recorded_graph(model, (ROWS,), {})
    assert [node.args[1] for node in graph.nodes if op(node) == "mul"] == [3.0]


def test_a_draw_changes_floating_inputs_by_a_tenth_and_no_others() -> None:
    given = ROWS, {"ids": torch.arange(4), "flags": torch.tensor([True, False])}
    same, other = (copied_inputs(nn.Linear(2, 2), given, draw) for draw in (0, 1))
    assert torch.equal(same[0], ROWS) and same[0] is not ROWS
    change = other[0] / ROWS - 1
    assert 0.05 < float(change.std()) < 0.2 and float(change.abs().min()) > 0
    assert all(torch.equal(other[1][key], value) for key, value in given[1].items())


def test_a_draw_gives_other_weights_of_the_same_size() -> None:
    model = nn.Linear(50, 50)
    same, other = runnable(model), runnable(model, draw=1)
    given, kept, drawn = (next(own.parameters()).detach() for own in (model, same, other))
    assert torch.equal(kept, given) and not torch.equal(drawn, given)
    assert float(drawn.std() / given.std()) == pytest.approx(1, abs=0.1)
