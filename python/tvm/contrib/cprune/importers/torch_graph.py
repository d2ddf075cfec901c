# SPDX-License-Identifier: Apache-2.0
"""Name the tensors that a TorchScript graph reads by identity.

TVM's importer names a parameter after the operator that reads it first. The name is wrong if a layer runs
twice or a module reads another module's weight, and two tensors can get the same name. Here, every tensor
that the graph reads becomes a graph input, named after the parameter or buffer whose memory it is.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from tvm.contrib.cprune.types import INPUT, CPruneError

# Operators between an in-place write and the tensor it changes (_redirect_inplace_output in
# tvm/relay/frontend/pytorch.py).
_VIEWS = ("aten::select", "aten::slice", "aten::unsqueeze")


@dataclass(frozen=True)
class LiftedGraph:
    """A TorchScript graph without attributes.

    Its inputs are an unused one, the model's input, and ``tensors`` in order. TVM's importer expects ``self``
    as the first input when it resolves in-place writes, hence the unused one.
    """

    graph: Any
    tensors: dict[str, torch.Tensor]

    def input_infos(self, input_shape: tuple[int, ...]) -> list[tuple[str, Any]]:
        """Return the name, shape and dtype of each input for ``relay.frontend.from_pytorch``."""
        infos = [
            (name, (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")))
            for name, tensor in self.tensors.items()
        ]
        return [("self", (1,)), (INPUT, tuple(input_shape)), *infos]


def identity(tensor: torch.Tensor) -> Hashable:
    """Return a key that is equal for two tensors that are the same view of the same memory."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def lift_tensors(traced: torch.jit.ScriptModule, model: torch.nn.Module) -> LiftedGraph:
    """Turn every tensor that a traced module reads into a named graph input.

    Parameters
    ----------
    traced
        The trace of ``model``, sharing its memory, or ``model`` itself.
    model
        The module whose paths name the tensors. Tied tensors get the first of their paths.

    Raises
    ------
    CPruneError
        If the model has several inputs, reads a tensor that is neither a parameter nor a buffer, or writes to
        one.
    """
    graph: Any = traced.graph.copy()
    # Inlines method calls. TVM's importer runs the same pass: unlike _jit_pass_inline it keeps interpolate.
    torch._C._jit_pass_onnx_function_substitution(graph)
    graph, tensors = torch._C._jit_pass_lower_graph(graph, traced._c)
    values = list(graph.inputs())[1:]
    if len(values) != len(tensors):
        raise CPruneError(f"the model has {len(values) - len(tensors) + 1} inputs, expected one")
    _refuse_writes(graph, {value.debugName() for value in values})

    names = _names(model)
    lifted: dict[str, tuple[Any, Any]] = {}
    duplicates = []
    for position, (value, tensor) in enumerate(zip(values, tensors, strict=True), 1):
        name = _name_of(tensor, names)
        if name in lifted:
            value.replaceAllUsesWith(lifted[name][0])
            duplicates.append(position)
        else:
            lifted[name] = value, tensor
    for position in reversed(duplicates):
        graph.eraseInput(position)
    graph.addInput()
    graph.permuteInputs([len(lifted) + 1, *range(len(lifted) + 1)])
    return LiftedGraph(graph, {name: tensor for name, (_, tensor) in lifted.items()})


def _names(model: torch.nn.Module) -> dict[Hashable, str]:
    """Return the path of every parameter and buffer, including those that ``state_dict`` omits."""
    parameters = model.named_parameters(remove_duplicate=False)
    names: dict[Hashable, str] = {}
    for name, tensor in chain(parameters, model.named_buffers(remove_duplicate=False)):
        names.setdefault(identity(tensor), name)
    return names


def _name_of(tensor: Any, names: dict[Hashable, str]) -> str:
    if not isinstance(tensor, torch.Tensor):
        raise CPruneError("the model has a quantized layer: expected a floating-point model")
    name = names.get(identity(tensor))
    if name is None:
        raise CPruneError(
            f"the model reads a tensor of shape {tuple(tensor.shape)} that is neither a parameter nor a "
            "buffer: register it with register_buffer"
        )
    if name == INPUT:
        raise CPruneError(f"the model has a parameter named {INPUT!r}, the name of its input: rename it")
    return name


def _refuse_writes(graph: Any, lifted: set[str]) -> None:
    """Refuse in-place writes to lifted tensors: TVM's importer would apply them to the model's input."""
    for node in graph.findAllNodes("aten::copy_", recurse=True):
        value = node.inputsAt(0)
        while value.node().kind() in _VIEWS:
            value = value.node().inputsAt(0)
        if value.debugName() in lifted:
            raise CPruneError("the model writes to a parameter or buffer in its forward pass")
