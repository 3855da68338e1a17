"""Fine-tuning with frozen weights: LoRA's two factors have roles of their own, and nothing pretrained is touched."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.parametrization.apply.optimizers import build_optimizers
from tests.support.docs_blocks import run_block

X = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].sin()
WIDTHS = (64, 128, 256, 512)


class Lora(nn.Module):
    """A frozen linear layer and its low-rank update B A x, written without PEFT."""

    def __init__(self, width: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.A, self.B = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.B(self.A(x))


class Net(nn.Module):
    """Pretrained and frozen but for the adapters, the norm and the head."""

    def __init__(self, width: int, layers: int = 1) -> None:
        super().__init__()
        self.inp = nn.Linear(16, width).requires_grad_(False)
        self.layers = nn.ModuleList(Lora(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inp(x))
        for layer in self.layers:
            h = h + torch.tanh(layer(h))
        return self.head(self.norm(h))


def planned(width: int, **options) -> tuple[nn.Module, hpt.Plan]:
    torch.manual_seed(0)
    base = Net(64)
    torch.manual_seed(1)
    model = Net(width)
    return model, hpt.make_plan(model, base=base, example_inputs=(X,), **options)


def test_a_scales_as_one_over_width_and_b_not_at_all():
    """2402.12354: lr_A = n^-1, lr_B = 1; A keeps its fan-in init and B its zero."""
    model, plan = planned(256)
    a, b = plan["layers.0.A.weight"], plan["layers.0.B.weight"]
    assert (a.role, a.lr_mult, a.init_mult) == ("bottleneck", 1 / 4, 1 / 2)
    assert (b.role, b.lr_mult) == ("input", 1.0)
    before = copy.deepcopy(model.state_dict())
    changed = {c.name for c in hpt.parametrize_(model, plan)}
    assert changed == {"head.weight", "head.bias"} or changed == {"head.weight"}  # a trained readout, by its own rule
    for name, value in model.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(value, before[name]), name
    assert model.layers[0].B.weight.abs().max() == 0
    assert "1 hidden parameters are frozen" in plan.notes[0]


def test_frozen_parameters_get_no_group():
    model, plan = planned(256)
    names = {n for g in hpt.param_groups(model, plan, lr=1e-3) for n in g["hpt_names"]}
    assert names == {n for n, p in model.named_parameters() if p.requires_grad}
    assert "layers.0.base.weight" not in names
    assert plan["layers.0.base.weight"].kept and plan["layers.0.base.weight"].init_mult == 1.0


def steps(model: nn.Module, opt: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        opt.zero_grad()
        (model(X) - Y).square().mean().backward()
        opt.step()


@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.SGD])
def test_the_adapter_changes_the_layer_equally_at_every_width(cls):
    """dA x and dB (A x), after the first steps: slopes in width near zero; one LR for both factors makes A explode."""
    found: dict[str, list[float]] = {"A": [], "B": []}
    for width in WIDTHS:
        own: dict[str, list[float]] = {"A": [], "B": []}
        for seed in range(4):
            model, plan = planned(width, optimizer=cls)
            torch.manual_seed(seed)
            model.layers[0].A.reset_parameters()
            hpt.parametrize_(model, plan)
            layer = model.layers[0]
            h = torch.tanh(model.inp(X))
            start = layer.A.weight.detach().clone()
            opt = build_optimizers(model, plan, {cls: {"lr": 1e-3, "weight_decay": 0.0}})
            steps(model, opt, 4)
            change = h @ (layer.A.weight.detach() - start).T
            own["A"].append(float(change.square().mean().sqrt()))
            own["B"].append(float(layer.B(layer.A(h)).detach().square().mean().sqrt()))
        for part, values in own.items():
            found[part].append(np.mean(values))
    slopes = {k: float(np.polyfit(np.log2(WIDTHS), np.log2(v), 1)[0]) for k, v in found.items()}
    assert max(map(abs, slopes.values())) < 0.3, slopes


def test_pretrained_and_initial_weights_are_a_choice():
    model, plan = planned(256, options=hpt.Options(weights="initial"))
    assert plan["layers.0.A.weight"].role == "readout" and plan["layers.0.A.weight"].init_mult == 1 / 4
    assert not any(row.kept for row in plan)
    _, strict = planned(256, options=hpt.Options(bottleneck_init="readout"))
    assert strict["layers.0.A.weight"].init_mult == 1 / 4 and strict["layers.0.base.weight"].kept
    for p in model.parameters():
        p.requires_grad_(True)
    base = Net(64)
    full = hpt.make_plan(model, base=base, example_inputs=(X,), options=hpt.Options(weights="pretrained"))
    assert full["layers.0.base.weight"].kept and full["layers.0.base.weight"].lr_mult == 1 / 4


def test_fine_tuning_keeps_the_forward_pass():
    """No attention or depth multiplier may change a pretrained function, whatever the scheme asks for."""
    _, plan = planned(256, scheme="completep")
    assert not plan.hooks
    assert {r.init_mult for r in plan if r.kept} == {1.0}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning:peft")
@pytest.mark.parametrize("kind", ["linear", "embedding too"])
def test_a_peft_model(kind):
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install peft)")
    worker = pytest.importorskip("tests.workers.trainer", reason="needs transformers")

    def adapted(width: int) -> nn.Module:
        targets = ["q_proj", "v_proj", "down_proj", *(["embed_tokens"] if kind != "linear" else [])]
        return peft.get_peft_model(worker.llama(width), peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets))

    model, ids = adapted(64), {"input_ids": worker.IDS[:2]}
    reference = model(**ids).logits.detach()
    plan = hpt.make_plan(model, base=adapted(32), example_inputs=ids)
    hpt.parametrize_(model, plan)
    assert torch.equal(model(**ids).logits, reference)
    stem = "base_model.model.model.layers.0.mlp.down_proj"
    assert plan[f"{stem}.lora_A.default.weight"].lr_mult == 1 / 2
    assert plan[f"{stem}.lora_A.default.weight"].role == "bottleneck"
    assert plan[f"{stem}.lora_B.default.weight"].lr_mult == 1.0
    opt = build_optimizers(model, plan, {torch.optim.AdamW: {"lr": 1e-2}})
    assert len(opt.param_groups) <= 3
    losses = []
    for _ in range(5):
        loss = model(**ids, labels=worker.IDS[:2]).loss
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning:peft")
def test_the_documented_example_runs(tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="peft is not installed (pip install peft)")
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    run_block("runtimes.md", "peft")
