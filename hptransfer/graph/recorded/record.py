"""One forward call recorded while it runs: the same ops, placeholders and module stacks as torch.export's graph."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError
from hptransfer.graph.export.attributes import tensors
from hptransfer.graph.export.composite import write_out
from hptransfer.graph.export.empty import drop_empty
from hptransfer.graph.export.in_place import connect_writes
from hptransfer.graph.export.sources import stand_ins
from hptransfer.graph.graph import Graph, tied_names
from hptransfer.graph.ops import facts
from hptransfer.graph.recorded.beside import add_beside
from hptransfer.graph.recorded.copied import copied_inputs, own_generators, runnable, storage_of


@dataclass(frozen=True)
class Recording:
    """What one run showed.

    graph: dead ends included. called: paths of the modules whose forward was called. reads: the nodes where values left
    the graph for Python: an item, or anything that nothing else reads (what became an array or a list).
    """

    graph: Graph
    called: frozenset[str]
    reads: tuple[fx.Node, ...]

    def finished(self) -> Graph:
        """The graph without reads and dead ends."""
        graph = self.graph.nodes[0].graph
        for node in reversed(graph.nodes):
            if _reads(node) and not node.users:
                graph.erase_node(node)
        graph.eliminate_dead_code(lambda node: node.op in {"placeholder", "output"} or _writes(node))
        return with_nodes(self.graph)


def record(
    original: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    siblings: Mapping[str, str] | None = None,
    draw: int = 0,
) -> Recording:
    """Run a copy of `original` and record what it computes.

    siblings: see trace_beside. draw: see trace_copy; without one the copy has the original's values. The graph is the
    same for every draw unless the code's way, or a number in it, depends on the data.
    Raises whatever the forward raises.
    """
    model = runnable(original, draw)
    inputs, stacks = copied_inputs(model, (args, kwargs), draw), _Stacks(model)
    add_beside(model, siblings or {})
    # listed before the run, which may put others in their place
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    leaves, kept = tensors(inputs), tensors(model)
    followed = list({id(t): t for t in (*parameters.values(), *buffers.values(), *leaves)}.values())
    aliases = tied_names(model)[1]

    def forward(tracked: list[Tensor]) -> list[Tensor]:
        with _DataAsDetach():
            made = _outputs(model(*inputs[0], **inputs[1]))
            return [tensor for tensor in made if not any(tensor is own for own in kept)]

    options: dict[str, Any] = {"pre_dispatch": True, "tracing_mode": "real", "_error_on_data_dependent_ops": False}
    eager = torch._dynamo.config.patch(error_on_nested_fx_trace=False)  # compiled functions run as written
    with warnings.catch_warnings(), own_generators(model), torch.enable_grad(), eager:
        warnings.simplefilter("ignore")
        module = make_fx(forward, **options)(followed)
    write_out(module.graph)
    made = (node for node in module.graph.nodes if node.op == "placeholder")
    tracked = dict(zip(map(id, followed), made, strict=True))
    stored = [(name, own, tracked[id(buffers[name])]) for name, own in original.named_buffers()]
    _refuse_reads_of_meta(module.graph, {node: name for name, own, node in stored if own.device.type == "meta"})
    lifted = list(_lifted(module))
    _refuse_hidden_parameters(lifted, [*parameters.items(), *original.named_parameters()])
    values, unread = _single_numbers([*stored, *lifted])
    _without_switches(module.graph)
    reads = tuple(n for n in module.graph.nodes if n.op == "call_function" and not n.users and not _writes(n))
    connect_writes(module.graph, {tracked[id(p)] for p in parameters.values()})
    of_inputs, named = frozenset(tracked[id(leaf)] for leaf in leaves), _placeholders(parameters, tracked)
    drop_empty(module.graph, {*named.values(), *of_inputs})
    outside = {node for _, tensor, node in lifted if not any(tensor is own for own in kept)}
    of_inputs |= stand_ins(module.graph.nodes, set(named.values()), of_inputs, outside)
    values = {node: value for node, value in values.items() if node not in of_inputs}
    graph = Graph((), {}, named, aliases, of_inputs, values, unread, ran=True)
    return Recording(with_nodes(graph, module.graph), frozenset(stacks.calls), reads)


def with_nodes(graph: Graph, recorded: fx.Graph | None = None) -> Graph:
    """The graph with nodes and order as they now are in its fx graph."""
    nodes = tuple((recorded or graph.nodes[0].graph).nodes)
    return replace(graph, nodes=nodes, order={node: i for i, node in enumerate(nodes)})


def _placeholders(parameters: Mapping[str, Tensor], tracked: Mapping[int, fx.Node]) -> dict[str, fx.Node]:
    """Parameter name -> its placeholder, whose value says, as an exported one's does, whether it is trained."""
    found = {name: tracked[id(parameter)] for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        found[name].meta["val"].requires_grad_(parameter.requires_grad)
    return found


class _Stacks:
    """Labels every node, as it is recorded, with the modules whose forward is running, as torch.export does.

    calls: path -> number of calls. The second and later calls of a module have "@1", "@2" in their key.
    """

    def __init__(self, model: nn.Module) -> None:
        self.calls: Counter[str] = Counter()
        self.open: list[tuple[str, str, str]] = []
        for path, module in model.named_modules():
            module.register_forward_pre_hook(self.enter(path, module), prepend=True)
            module.register_forward_hook(self.leave, always_call=True)

    def enter(self, path: str, module: nn.Module) -> Callable[[nn.Module, Any], None]:
        kind = f"{type(module).__module__}.{type(module).__qualname__}"

        def hook(module: nn.Module, args: Any) -> None:
            self.label()
            again = f"@{self.calls[path]}" if self.calls[path] else ""
            self.open.append((f"L__self__{path}{again}", path, kind))
            self.calls[path] += 1

        return hook

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.label()
        self.open.pop()

    def label(self) -> None:
        """Give the nodes recorded since the last change of module the stack that was open then."""
        mode = get_proxy_mode()
        if mode is None:
            return
        stack = {key: (path, kind) for key, path, kind in self.open}
        for node in reversed(mode.tracer.graph.nodes):
            if "nn_module_stack" in node.meta:
                break
            node.meta["nn_module_stack"] = {} if node.op == "placeholder" else stack


class _DataAsDetach(TorchFunctionMode):
    """x.data is a tensor that tracing does not know; x.detach() holds the same values and is known."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.data.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return args[0].detach()
        return func(*args, **(kwargs or {}))


def _outputs(tree: Any) -> list[Tensor]:
    """The tensors of a model's output. Plain objects beside them (a cache) are none; where all are, theirs count."""
    leaves = pytree.tree_leaves(tree)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return found or tensors(*(leaf for leaf in leaves if not isinstance(leaf, nn.Module)))


def _single_numbers(
    stored: Iterable[tuple[str, Tensor, fx.Node]],
) -> tuple[dict[fx.Node, float], dict[fx.Node, str]]:
    """Values of one-element buffers and constants, and the names of those that are on meta, which hold none."""
    values: dict[fx.Node, float] = {}
    unread: dict[fx.Node, str] = {}
    for name, tensor, node in stored:
        if tensor.numel() != 1:
            continue
        if tensor.device.type == "meta":
            unread[node] = name
        elif not tensor.is_complex() and math.isfinite(float(tensor)):
            values[node] = float(tensor)
    return values, unread


def _lifted(module: fx.GraphModule) -> Iterator[tuple[str, Tensor, fx.Node]]:
    """Every tensor that the forward took from elsewhere, with the placeholder that now stands for it, as exported."""
    graph, made = module.graph, dict[str, fx.Node]()
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        name, value = str(node.target), getattr(module, str(node.target))
        if name not in made:
            with graph.inserting_before(next(iter(graph.nodes))):
                made[name] = graph.placeholder(f"c{name}")
            made[name].meta.update(node.meta, nn_module_stack={})
            if isinstance(value, Tensor):
                made[name].meta.setdefault("val", value.detach().to("meta"))
                yield name, value, made[name]
        node.replace_all_uses_with(made[name])
        graph.erase_node(node)


def _refuse_hidden_parameters(
    lifted: Iterable[tuple[str, Tensor, fx.Node]], parameters: Iterable[tuple[str, Tensor]]
) -> None:
    """What shares memory with a parameter, but is not it, hides the parameter's use."""
    named = {storage_of(parameter): name for name, parameter in parameters}
    for name in (named.get(storage_of(tensor)) for _, tensor, _ in lifted):
        if name is not None:
            raise UsageError(
                f"the forward reads parameter {name!r} through a view of it kept in an attribute, or through a "
                f"function that holds the model itself, where its use cannot be followed; read the parameter off self"
            )


def _refuse_reads_of_meta(graph: fx.Graph, on_meta: Mapping[fx.Node, str]) -> None:
    """A number read off a buffer that has no value is no number."""
    hidden: dict[fx.Node, str] = dict(on_meta)
    for node in graph.nodes:
        from_buffers = [hidden[parent] for parent in node.all_input_nodes if parent in hidden]
        if from_buffers and len(from_buffers) == len(node.all_input_nodes):
            hidden[node] = from_buffers[0]
            if _reads(node):
                raise UsageError(
                    f"the forward reads the value of buffer {hidden[node]!r}, which is on the meta device; build the "
                    f"model on the CPU"
                )


def _reads(node: fx.Node) -> bool:
    return facts(node).reads


def _without_switches(graph: fx.Graph) -> None:
    """Drop the calls that turn grad mode and autocast on and off."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users and not isinstance(node.target, torch._ops.OpOverload):
            graph.erase_node(node)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
