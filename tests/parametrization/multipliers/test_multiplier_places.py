"""Where forward multipliers find a place in unusual attention and weights; confirmed by the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import hptransfer as hpt
from hptransfer.checks.oracle.verify import verify_plan

WIDTHS, LENGTH, TOKENS = (32, 64, 128), 6, 11


def ids() -> Tensor:
    return torch.randint(0, TOKENS, (4, LENGTH), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Embedding, `times` times a residual attention made by `attend`, norm, readout."""

    def __init__(self, width: int, attend: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.embed, self.attend, self.times = nn.Embedding(TOKENS, width), attend, times
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, TOKENS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for _ in range(self.times):
            x = x + self.attend(F.layer_norm(x, x.shape[-1:]))
        return self.head(self.norm(x))


class Attend(nn.Module):
    """One head, so that its dimension is the width; subclasses change the logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT * q.shape[-1] ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.logits(self.q(x), self.k(x)).softmax(-1) @ self.v(x))


class Sinks(Attend):
    """One more logit beside the others, and the largest subtracted."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.sink = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits(self.q(x), self.k(x))
        logits = torch.cat([logits, self.sink.expand(*logits.shape[:-1], 1)], -1)
        logits = logits - logits.max(-1, keepdim=True).values
        return self.o(logits.softmax(-1)[..., :-1] @ self.v(x))


class Floored(Attend):
    """Logits bounded from below (XGLM)."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.max(super().logits(q, k), torch.tensor(-1e4))


class Relative(Attend):
    """Logits against positions enter a fused attention as its mask, shifted by a padding (Conformer)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.p, self.places = nn.Linear(width, width, bias=False), nn.Parameter(torch.randn(LENGTH, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        shifted = F.pad(q @ self.p(self.places).mT, (1, 0))[..., :-1] * q.shape[-1] ** -0.5
        return self.o(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], shifted[:, None])[:, 0])


class Positions(Attend):
    """Contents against contents, contents against positions and positions against contents (DeBERTa)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.places = nn.Embedding(LENGTH, width)
        self.pq, self.pk = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        scale = (3 * q.shape[-1]) ** -0.5
        places = self.places(torch.arange(LENGTH))
        return q @ k.mT * scale + q @ self.pk(places).mT * scale + self.pq(places) @ k.mT * scale


class Latent(Attend):
    """Keys put together from two parts in a fresh tensor, which no multiplier can be followed through (DeepSeek)."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        keys, half = k.new_empty(k.shape), k.shape[-1] // 2
        keys[..., :half], keys[..., half:] = k[..., :half], k[..., half:]
        return super().logits(q, keys)


class Rotated(Attend):
    """q and k normalised with gains 1 + w, which cannot hold a multiplier, then rotated (Gemma 3)."""

    class Norm(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(width))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.gain)

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.q_norm, self.k_norm = self.Norm(width), self.Norm(width)

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        angle = torch.arange(LENGTH)[:, None] * torch.linspace(0.1, 1, q.shape[-1] // 2)
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        q, k = self.q_norm(q), self.k_norm(k)
        return super().logits(q * cos + q.roll(1, -1) * sin, k * cos + k.roll(1, -1) * sin)


class Complex(Attend):
    """Rotation as a product of complex numbers."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        angle = torch.arange(LENGTH)[:, None] * torch.linspace(0.1, 1, q.shape[-1] // 2)
        turn = torch.polar(torch.ones_like(angle), angle)
        q, k = (torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2))) * turn).flatten(-2) for t in (q, k))
        return super().logits(q, k)


def attention_plan(attend: Callable[[int], nn.Module], times: int = 1) -> hpt.Plan:
    return hpt.make_plan(Net(128, attend(128), times), base=Net(32, attend(32), times), example_inputs=(ids(),))


HALF = 4**-0.25  # logits take 1/2 more than the code's own 1/sqrt(d) when d grows 4 times; q and k share it


@pytest.mark.parametrize(
    ("attend", "times", "held"),
    [
        (Sinks, 1, {"q": HALF, "k": HALF}),
        (Floored, 1, {"q": HALF, "k": HALF}),
        (Relative, 1, {"q": HALF, "k": HALF, "p": HALF}),
        (Attend, 2, {"q": HALF, "k": HALF}),  # one layer, called twice
        (Positions, 1, {"q": HALF, "k": HALF, "pq": HALF, "pk": HALF}),
        (Latent, 1, {"q": HALF**2}),
        (Complex, 1, {"q": HALF, "k": HALF}),
    ],
)
def test_attention_multipliers_are_absorbed(attend: type[Attend], times: int, held: dict[str, float]) -> None:
    plan = attention_plan(attend, times)
    assert not plan.hooks
    found = {row.name.split(".")[1]: row.held for row in plan if row.held != 1}
    assert found == pytest.approx(held)
    report = verify_plan(lambda w: Net(w, attend(w), times), widths=WIDTHS, example_inputs=(ids(),), seeds=2)
    assert report.verdict == "PASS", str(report)


def test_a_hook_stands_behind_a_rotation_where_no_gain_holds_the_multiplier() -> None:
    (hook,) = attention_plan(Rotated).hooks
    assert (hook.module, hook.where, hook.factor) == ("attend.q_norm", "output", pytest.approx(HALF**2))
    report = verify_plan(lambda w: Net(w, Rotated(w)), widths=WIDTHS, example_inputs=(ids(),), seeds=2)
    assert report.verdict == "PASS", str(report)


class Bent(Positions):
    """DeBERTa's three products, of contents that no weight's scale reaches."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return super().logits(q.tanh(), k.tanh())


class OneQuery(Attend):
    """Keys and positions against one query, whose module's output both read."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.q_norm = Rotated.Norm(width)
        self.places, self.pk = nn.Embedding(LENGTH, width), nn.Linear(width, width, bias=False)

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        scale, q, places = q.shape[-1] ** -0.5, self.q_norm(q), self.places(torch.arange(LENGTH))
        return q @ k.tanh().mT * scale + q @ self.pk(places).tanh().mT * scale


def test_a_hook_on_one_of_several_products_factors_is_refused() -> None:
    """Multiplying the positions' keys mends one product of three: it was done, with all five targets' factor."""
    with pytest.raises(hpt.UsageError, match="no place"):
        attention_plan(Bent)


def test_one_hook_does_for_products_that_share_a_factor() -> None:
    (hook,) = attention_plan(OneQuery).hooks
    assert (hook.module, hook.where, hook.factor) == ("attend.q_norm", "output", pytest.approx(HALF**2))
    report = verify_plan(lambda w: Net(w, OneQuery(w)), widths=WIDTHS, example_inputs=(ids(),), seeds=2)
    assert report.verdict == "PASS", str(report)


def test_a_tied_table_times_a_constant_outside_its_module_is_hooked() -> None:
    class Scaled(Net):
        def __init__(self, width: int) -> None:
            super().__init__(width, Attend(width))
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens) * self.norm.weight.shape[0] ** 0.5
            return self.head(self.norm(x + self.attend(F.layer_norm(x, x.shape[-1:]))))

    plan = hpt.make_plan(Scaled(128), base=Scaled(32), example_inputs=(ids(),))
    assert [(h.module, h.where, h.factor) for h in plan.hooks] == [("embed", "output", pytest.approx(0.5))]
    assert plan["norm.weight"].held == 0.25


class Resized(nn.Module):
    """A table of positions, resized to the image, added to its channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(1, width, 3, 3)), nn.Linear(width, 4)
        self.conv = nn.Conv2d(2, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + F.interpolate(self.table, x.shape[-2:], mode="bilinear")
        return self.head(F.relu(y).mean((-1, -2)))


def test_a_resized_table_keeps_its_axes() -> None:
    images = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    report = verify_plan(Resized, widths=WIDTHS, example_inputs=(images,), seeds=2)
    assert report.verdict == "PASS", str(report)
    assert report["table"].role == "vector"


def conv_net(dim: int, turned: bool) -> Callable[[int], nn.Module]:
    make = nn.ConvTranspose1d if turned else nn.Conv1d
    return lambda width: nn.Sequential(
        nn.Conv1d(2, width, 3), parametrizations.weight_norm(make(width, width, 3), dim=dim), nn.Conv1d(width, 3, 1)
    )


@pytest.mark.parametrize(("dim", "turned"), [(0, False), (1, True), (0, True)])
def test_a_weight_normalised_per_row_or_square_column_keeps_the_right_scale(dim: int, turned: bool) -> None:
    signal = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    report = verify_plan(conv_net(dim, turned), widths=WIDTHS, example_inputs=(signal,), seeds=2)
    assert report.verdict == "PASS", str(report)


def test_a_weight_normalised_per_tap_is_refused() -> None:
    """w / |w| over rows and columns has entries 1/n, and a hidden weight needs n^-1/2."""
    build, signal = conv_net(2, False), torch.randn(3, 2, 16)
    with pytest.raises(hpt.UsageError, match=r"divided by its own norm .* multiply its output by 2 yourself"):
        hpt.make_plan(build(128), base=build(32), example_inputs=(signal,))
