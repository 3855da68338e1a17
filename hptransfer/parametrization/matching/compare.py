"""Target against base: which parameters correspond, and the one role that each parameter's uses give it."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import fx, nn

from hptransfer.core.errors import UsageError
from hptransfer.core.roles import Role
from hptransfer.graph.graph import Graph, template
from hptransfer.graph.parameters.fans import role_of_use, settle
from hptransfer.graph.parameters.uses import Use, hosts, inner_weights, parameter_uses
from hptransfer.graph.readings.bottleneck import normalised_readouts
from hptransfer.graph.readings.grouped import grouped_heads
from hptransfer.graph.scales.parallel import Parallel, parallel_sums
from hptransfer.graph.scales.shares import shares
from hptransfer.parametrization.functions import Lost, lost_scale, refuse_function
from hptransfer.parametrization.matching.names import match_names

Shape = tuple[int, ...]


class Comparison:
    """Roles of a target's parameters, from their uses in its graph and in the base's.

    roles: parameter -> role; settled: parameter -> the uses it was read off; matches: parameter -> the base's; notes;
    tied: parameter that is both an input weight and a readout -> its uses as a readout; hosts: bias -> the weight it
    stands beside; parallel: sums of alike terms against the base's; lost: op -> what is wrong with its weight's scale,
    where a norm takes that away; inner: parameters that are neither the first nor the last weight on their way, at any
    size.
    annotated: parameter name or glob -> role, which overrules the trace. keep_unused: see Options.unused. heads: see
    Options.grouped_heads. ruled: False where no rule will be applied (the SP control), so that uses may contradict each
    other.
    Raises UsageError where a role cannot be settled, shapes do not correspond or an annotation matches nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        base: nn.Module,
        graphs: tuple[Graph, Graph],
        annotated: Mapping[str, Role],
        *,
        keep_unused: bool = False,
        heads: str = "readout",
        ruled: bool = True,
    ) -> None:
        self.parameters, self.base_parameters = dict(model.named_parameters()), dict(base.named_parameters())
        self.matches = match_names(list(self.parameters), list(self.base_parameters))
        self.annotated, self.keep_unused, self.ruled = annotated, keep_unused or not ruled, ruled
        self.uses, self.base_uses = parameter_uses(graphs[0]), parameter_uses(graphs[1])
        self.hosts = hosts(self.uses)
        self.inner = inner_weights(graphs[0], self.uses)
        self.parallel = parallel_sums(*graphs) if ruled else Parallel()
        settled = [use for uses in self.uses.values() for use in uses if isinstance(use, Use)]
        self.shares = shares(*graphs, settled) if ruled else {}
        self.settled: dict[str, list[Use]] = {}
        self.tied: dict[str, list[Use]] = {}
        self.lost: dict[fx.Node, Lost] = {}
        self.notes: list[str] = []
        matches_nothing = [p for p in annotated if not fnmatch.filter(self.parameters, p)]
        if matches_nothing:
            raise UsageError(
                f"roles={matches_nothing[0]!r} matches no parameter; there are for example {list(self.parameters)[:3]}."
            )
        self.roles = {name: self._with_copies(name, self._role(name)) for name in self.parameters}
        if ruled and (grouped := grouped_heads(graphs[0], self.settled, self.roles)):
            kind = "bottleneck" if heads == "fan-in" else "readout"
            self.roles |= {name: replace(self.roles[name], kind=kind) for name in grouped}
            self.notes.append(_heads_note(grouped, self.roles[grouped[0]], heads))
        self.notes += [_norm_note(name, self.roles[name]) for name in normalised_readouts(self.settled, self.roles)]

    def shapes(self, name: str) -> tuple[Shape, Shape]:
        """Shapes of a parameter in the target and in the base."""
        target, base = tuple(self.parameters[name].shape), tuple(self.base_parameters[self.matches[name]].shape)
        if len(target) != len(base):
            raise UsageError(f"{name!r} has shape {target}, but {self.matches[name]!r} of the base has {base}.")
        return target, base

    def _with_copies(self, name: str, role: Role) -> Role:
        """The role, with how many alike it is one of where there are more of them than in the base.

        More of them make more outputs, as a growing number of blocks does: what contracts the width is hidden then.
        """
        if name not in self.parallel.copies or role.kind == "unused" or name not in self.settled:
            return role
        count, at_base = self.parallel.copies[name]
        kind = "hidden" if role.kind == "readout" else role.kind
        return replace(role, kind=kind, copies=count, base_copies=at_base)

    def _role(self, name: str) -> Role:
        annotated = next((r for pattern, r in self.annotated.items() if fnmatch.fnmatchcase(name, pattern)), None)
        if annotated is not None:
            return annotated
        uses = self.settled[name] = settle(name, self.uses.get(name, []))
        if not uses:
            return self._unused(name)
        base_uses = [u for u in self.base_uses.get(self.matches[name], []) if isinstance(u, Use)]
        shape, base_shape = self.shapes(name)
        found: dict[Role, list[Use]] = {}
        for use in uses:
            twin = next((b for b in base_uses if b.axes == use.axes and b.op == use.op), None)
            if twin is None:
                raise UsageError(f"{name!r} is used as {use}, but {self.matches[name]!r} of the base is not.")
            role = role_of_use(use, shape, twin, base_shape, share=self._share(use, shape, base_shape))
            if self.ruled:
                refuse_function(name, use, role)
                self._note_lost(name, use, role)
            found.setdefault(role, []).append(use)
        return self._joined(name, found) if self.ruled else next(iter(found))

    def _share(self, use: Use, shape: Shape, base_shape: Shape) -> float:
        """Ratio of the share of what a use contracts that is not zero."""
        chosen = self.shares.get(use.operand) if use.operand is not None else None
        axes = zip(use.axes, shape, base_shape, strict=True)
        contracted = [(size, base) for label, size, base in axes if label == "contracted"]
        return chosen.share if chosen is not None and chosen.among in contracted else 1.0

    def _note_lost(self, name: str, use: Use, role: Role) -> None:
        """Remember a weight whose own scale a norm takes away: whether that matters, the rest of the forward says."""
        if use.normalised and "contracted" in use.axes:
            self.lost[use.node] = lost_scale(name, use, role)

    def _joined(self, name: str, found: Mapping[Role, list[Use]]) -> Role:
        """One role for all uses. Of a tied input weight and readout the former stands; the readout is multiplied."""
        kinds = {role.kind: role for role in found}
        if set(kinds) == {"input", "readout"}:
            self.tied[name] = [use for role, uses in found.items() if role.kind == "readout" for use in uses]
            return kinds["input"]
        if len({(role.kind == "readout", role.m_in, role.m_out) for role in found}) > 1:
            shown = "; ".join(f"{uses[0]} -> {role.kind}" for role, uses in found.items())
            raise UsageError(f"{name!r} has uses that ask for different rules: {shown}. Say which stands with roles=.")
        return next(iter(found))

    def _unused(self, name: str) -> Role:
        trainable = self.parameters[name].requires_grad
        shape, base_shape = self.shapes(name)
        if trainable and shape != base_shape and not self.keep_unused:
            raise UsageError(
                f"Parameter {name!r} is never used in the traced forward. Give example_inputs that reach it, freeze "
                f"it, annotate it with roles={{{name!r}: Role(...)}}, or pass options=Options(unused='keep')."
            )
        if trainable:
            self.notes.append(f"{name} is never used in the traced forward; it is left as it is")
        return Role("unused")


HEADS = "heads of a fixed size"


def _heads_note(names: Sequence[str], role: Role, heads: str) -> str:
    shown = ", ".join(dict.fromkeys(template(name) for name in names))
    start = "as at the base" if heads == "fan-in" else f"m^-1/2 = {role.m_in**-0.5:.3g} of the base's"
    return (
        f"{shown}: {HEADS}, which ever more query heads read as the width grows (m = {role.m_in:g}); "
        f"Options(grouped_heads={heads!r}): their entries start {start}, see docs/gqa.md"
    )


def _norm_note(name: str, role: Role) -> str:
    return (
        f"{name} makes a fixed size of the width ({role.fan_in} -> {role.fan_out}) and a norm reads it: the norm "
        f"undoes its initial 1/fan_in, so that until its first steps the gradients behind it may exceed the plan's by "
        f"m^1/2 = {role.m_in**0.5:.3g}. Let that size grow with the width, or drop the norm."
    )
