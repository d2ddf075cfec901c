# SPDX-License-Identifier: Apache-2.0
"""Dependency graphs of models (DepGraph, Fang et al., CVPR 2023), traced with Torch-Pruning."""

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
import torch_pruning as tp
from torch_pruning.dependency.node import Node

from tvm.contrib.cprune.models.layers import Kind
from tvm.contrib.cprune.models.modes import evaluation_mode
from tvm.contrib.cprune.types import CPruneError

# What PyTorch and Torch-Pruning raise for a model that they cannot trace, prune or run.
TORCH_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ZeroDivisionError,
    AssertionError,
)
# Operations along one dimension that move, copy or leave out channels, by the names of their gradients.
ALONG_ONE_DIM = ("Split", "Unbind", "Slice", "Select", "IndexSelect", "Stack", "Gather")
REORDERING = ("PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "Index", "Repeat")


def summary(error: BaseException) -> str:
    """Return an exception's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class ChannelGraph(tp.DependencyGraph):
    """A dependency graph that ends where Torch-Pruning would lose track of the channels.

    Torch-Pruning passes channels through unknown operations as if they kept their positions, numbers the
    parts of a split by their use, and does not know that a model's code slices at fixed offsets. The graph is
    cut at such operations.

    Attributes
    ----------
    cuts
        The nodes on both sides of a cut, and the reason for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cuts: dict[Node, str] = {}
        # Torch-Pruning forgets the running statistics of instance norms.
        self.REGISTERED_PRUNERS[Kind.IN] = self.REGISTERED_PRUNERS[Kind.BN]

    def _trace(self, *args: Any, **kwargs: Any) -> dict[Any, Node]:
        nodes: dict[Any, Node] = super()._trace(*args, **kwargs)
        for node in list(nodes.values()):
            # Nodes of modules and parameters are pruned, so that they keep track of their channels.
            if isinstance(node.module, torch.nn.Parameter) or node.module in self._module2name:
                continue
            if node.type == Kind.CONCAT:
                node.module.concat_sizes = _concat_sizes(node)
            elif reason := _reason_to_cut(node):
                self._cut(node, reason, nodes)
            elif node.type == Kind.RESHAPE:
                if _is_flatten(node.grad_fn):
                    node.grad_fn = SimpleNamespace(_saved_self_sizes=node.grad_fn._saved_self_sym_sizes)
                else:
                    node.type = Kind.ELEMENTWISE  # keeps the positions of the channels
        return nodes

    def _cut(self, node: Node, reason: str, nodes: dict[Any, Node]) -> None:
        """End the graph at a node, and let each of its consumers start at a source of the same shape."""
        self.cuts[node] = reason
        for number, consumer in enumerate(node.outputs):
            module = tp.ops._OutputOp((self._op_id, number), shape=_shape_for(node, consumer))
            source = Node(module, grad_fn=None)
            source.add_output(consumer)
            consumer.inputs[consumer.inputs.index(node)] = source
            nodes[module] = source
            self.cuts[source] = reason
        self._op_id += 1
        node.outputs = []


def _shapes(grad_fn: Any) -> list[tuple[int, ...]]:
    """Return the shapes of the outputs of an operation."""
    return [tuple(metadata.shape) for metadata in getattr(grad_fn, "_input_metadata", ())]


def _shape_for(node: Node, consumer: Node) -> tuple[int, ...]:
    """Return the shape of the output of ``node`` that ``consumer`` reads."""
    shapes = _shapes(node.grad_fn)
    for function, index in getattr(consumer.grad_fn, "next_functions", ()):
        if function is node.grad_fn:
            return shapes[index]
    return shapes[0]


def _concat_sizes(node: Node) -> list[int]:
    dim = _dims(node.grad_fn)[0]
    functions = [(function, index) for function, index in node.grad_fn.next_functions if function is not None]
    return [_shapes(function)[index][dim] for function, index in functions]


def _dims(grad_fn: Any) -> tuple[int, ...]:
    """Return the dimension or dimensions that an operation works on. Negative ones are saved unsigned."""
    dims = grad_fn._saved_dims if hasattr(grad_fn, "_saved_dims") else (grad_fn._saved_dim,)
    rank = len(getattr(grad_fn, "_saved_self_sym_sizes", _shapes(grad_fn)[0]))
    return tuple(dim - 2**64 + rank if dim >= 2**63 else dim % rank for dim in dims)


def _is_flatten(grad_fn: Any) -> bool:
    """Return whether a reshape flattens (N, C, H, W) to (N, C * H * W)."""
    before, after = tuple(grad_fn._saved_self_sym_sizes), _shapes(grad_fn)[0]
    return len(before) == 4 and after == (before[0], math.prod(before[1:]))


def _reason_to_cut(node: Node) -> str:
    """Return why Torch-Pruning cannot follow channels through an operation, or an empty string if it can."""
    if not node.inputs or not hasattr(node.grad_fn, "name"):  # a function of parameters has no inputs
        return ""
    name = node.grad_fn.name().rstrip("0123456789").removesuffix("Backward")
    if node.type == Kind.RESHAPE and hasattr(node.grad_fn, "_saved_self_sym_sizes"):
        return _reason_to_cut_reshape(node.grad_fn)
    if name.startswith("Split"):
        name = "Split"
    if name in REORDERING or (name in ("Roll", "Flip") and 1 in _dims(node.grad_fn)):
        return f"its channels are reordered or copied ({name})"
    if name in ALONG_ONE_DIM and not _is_spatial(node.grad_fn):
        return f"its channels are split, selected or stacked ({name})"
    if name == "ConstantPadNd" and any(node.grad_fn._saved_pad[4:6]):
        return "its channels are padded"
    return ""


def _is_spatial(grad_fn: Any) -> bool:
    """Return whether an operation works along the height or width of (N, C, H, W), or along the batch."""
    dim = _dims(grad_fn)[0]
    rank = len(getattr(grad_fn, "_saved_self_sym_sizes", _shapes(grad_fn)[0]))
    return dim == 0 or (rank == 4 and dim in (2, 3))


def _reason_to_cut_reshape(grad_fn: Any) -> str:
    before, after = tuple(grad_fn._saved_self_sym_sizes), _shapes(grad_fn)[0]
    if max(len(before), len(after)) > 4:
        return (
            "its channels are reshaped into more than four dimensions, as in a channel shuffle or attention"
        )
    same_axis = before[1:2] == after[1:2] or before[-1] == after[-1]
    merges_batch = after == (1, before[0] * math.prod(before[1:2]), *before[2:])  # as instance norms do
    if same_axis or merges_batch or _is_flatten(grad_fn):
        return ""
    return f"its channels are reshaped from {before} to {after}"


def dependency_graph(model: torch.nn.Module, input_shape: tuple[int, ...]) -> ChannelGraph:
    """Trace a model's dependency graph.

    The graph keeps the activations and weights of the traced run in memory. Do not keep it.

    Raises
    ------
    CPruneError
        If Torch-Pruning cannot trace the model.
    """
    parameters = list(model.parameters())
    if not parameters:
        raise CPruneError(f"{type(model).__name__} has no parameters, and so no channels to prune")
    trained = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:  # frozen layers are traced, too
            parameter.requires_grad_(parameter.is_floating_point())
        data = torch.zeros(input_shape, device=parameters[0].device)
        with evaluation_mode(model), torch.enable_grad():
            return ChannelGraph().build_dependency(model, data, verbose=False)
    except (*TORCH_ERRORS, RecursionError) as error:
        raise CPruneError(
            f"cannot trace {type(model).__name__} with inputs of shape {input_shape}: {summary(error)}"
        ) from error
    finally:
        for parameter, flag in zip(parameters, trained, strict=True):
            parameter.requires_grad_(flag)


def pruning_group(graph: tp.DependencyGraph, module: torch.nn.Module, channels: Iterable[int]) -> Any:
    """Return the Torch-Pruning group that removes output ``channels`` of a layer."""
    return graph.get_pruning_group(
        module, graph.get_pruner_of_module(module).prune_out_channels, list(channels)
    )
