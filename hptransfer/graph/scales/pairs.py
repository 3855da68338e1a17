"""Which op of the base an op of the target is measured against: the same place in the module that corresponds.

Where a module ran the same ops at both sizes, the nth belongs to the nth. Where it did not (a loop over more layers in
one forward), an op belongs to one of the same kind that reads the same parameters and modules, layer indices left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import fx

from hptransfer.graph.graph import Graph, module_path, template
from hptransfer.graph.ops import op


class Counterparts:
    """The base's names, to be looked up by a target's: the same name, or one that differs only in its layer indices."""

    def __init__(self, base: Iterable[str]) -> None:
        self.known = set(base)
        self.by_template: dict[str, list[str]] = {}
        for name in sorted(self.known):
            self.by_template.setdefault(template(name), []).append(name)

    def of(self, name: str) -> str | None:
        """The base's name for a target's, or None."""
        candidates = self.by_template.get(template(name), [])
        return name if name in self.known else _nearest(name, candidates) if candidates else None


def _nearest(name: str, candidates: list[str]) -> str:
    """The name whose indices are closest: stages keep their stage, and beyond the base's last block that one counts."""
    at = _indices(name)
    return min(candidates, key=lambda c: [abs(a - b) for a, b in zip(at, _indices(c), strict=True)])


def _indices(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]


def node_pairs(target: Graph, base: Graph) -> dict[fx.Node, fx.Node]:
    """Op of the target -> op of the base. An op without a counterpart is left out."""
    ours, theirs = _calls(target), _calls(base)
    if len(ours) == len(theirs) and all(_alike(a, b) for a, b in zip(ours, theirs, strict=True)):
        return dict(zip(ours, theirs, strict=True))
    of_target, of_base = _by_module(ours), _by_module(theirs)
    counterparts = Counterparts(of_base)
    pairs: dict[fx.Node, fx.Node] = {}
    for path, nodes in of_target.items():
        twin = counterparts.of(path)
        twins = of_base[twin] if twin is not None else []
        if [op(n) for n in nodes] == [op(n) for n in twins]:
            pairs |= zip(nodes, twins, strict=True)
    left = [node for node in ours if node not in pairs]
    return pairs | _by_signature(left, theirs, target, base) if left else pairs


def _calls(graph: Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _alike(ours: fx.Node, theirs: fx.Node) -> bool:
    return op(ours) == op(theirs) and template(module_path(ours)) == template(module_path(theirs))


def _by_module(nodes: Iterable[fx.Node]) -> dict[str, list[fx.Node]]:
    ran: dict[str, list[fx.Node]] = {}
    for node in nodes:
        ran.setdefault(module_path(node), []).append(node)
    return ran


def _by_signature(left: list[fx.Node], theirs: list[fx.Node], target: Graph, base: Graph) -> dict[fx.Node, fx.Node]:
    """The nth of one signature belongs to the base's nth, and all beyond its last to that one."""
    known: dict[object, list[fx.Node]] = {}
    for node in theirs:
        known.setdefault(_signature(node, base), []).append(node)
    seen: Counter[object] = Counter()
    pairs: dict[fx.Node, fx.Node] = {}
    for node in left:
        signature = _signature(node, target)
        if candidates := known.get(signature):
            pairs[node] = candidates[min(seen[signature], len(candidates) - 1)]
            seen[signature] += 1
    return pairs


def _signature(node: fx.Node, graph: Graph) -> object:
    """What an op is and reads, and who reads it, without layer indices."""
    reads = tuple(_place(parent, graph) for parent in node.all_input_nodes)
    readers = frozenset(_place(user, graph) for user in node.users)
    return _place(node, graph), reads, readers, tuple(isinstance(a, (int, float)) for a in node.args)


def _place(node: fx.Node, graph: Graph) -> tuple[str, str]:
    name = graph.parameter_name(node)
    return (op(node), template(module_path(node))) if name is None else ("parameter", template(name))


Pairs = Mapping[fx.Node, fx.Node]
