# SPDX-License-Identifier: Apache-2.0
"""Import an ONNX file. Its layers have the names of the model that it was exported from."""

import copy
import warnings
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper, shape_inference

import tvm
from tvm import relay
from tvm.contrib.cprune.importers.relay_model import label_layers, to_relay_model
from tvm.contrib.cprune.messages import first_line, last_line
from tvm.contrib.cprune.types import INPUT, CPruneError, RelayModel

_WEIGHTED = ("Conv", "Gemm", "MatMul")


def load_onnx(path: Path) -> onnx.ModelProto:
    """Load a model, and name its anonymous weights after their layers.

    Raises
    ------
    CPruneError
        If the file is missing or is not an ONNX model.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except OSError as error:
        raise CPruneError(f"cannot read {path}: {error.strerror}") from None
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise CPruneError(f"{path} is not an ONNX model: {first_line(error)}") from None
    return _name_weights(model)


def _layer_name(node: onnx.NodeProto) -> str:
    """Return the module path in the name of a node, such as "/layer1/layer1.0/conv1/Conv"."""
    path: list[str] = []
    for part in node.name.strip("/").split("/")[:-1]:
        if path and part.startswith(path[-1] + "."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path) or node.name


def _name_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name the weights that torch.onnx.export folded and left anonymous ("onnx::Conv_40")."""
    model = copy.deepcopy(model)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = [name for node in model.graph.node for name in node.input]
    new: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED:
            continue
        for name, role in zip(node.input[1:3], ("weight", "bias"), strict=False):
            new_name = f"{_layer_name(node)}.{role}"
            anonymous = name.startswith("onnx::") and name in values and uses.count(name) == 1
            if anonymous and new_name not in values:
                new[name] = new_name
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = new.get(name, name)
    for old, name in new.items():
        values[old].name = name
    return model


def input_of(model: onnx.ModelProto) -> tuple[str, tuple[int, ...]]:
    """Return the name and shape of a model's input. A dynamic batch size becomes 1.

    Raises
    ------
    CPruneError
        If the model has several inputs, or a dynamic dimension besides the batch.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise CPruneError(f"the model has {len(inputs)} inputs, expected one")
    dims = inputs[0].type.tensor_type.shape.dim
    shape = tuple(int(dim.dim_value) or (1 if i == 0 else 0) for i, dim in enumerate(dims))
    if not shape or 0 in shape:
        raise CPruneError(
            f"the input {inputs[0].name} has shape {shape}, where 0 is dynamic: expected a fixed shape"
        )
    return inputs[0].name, shape


def import_onnx(model: onnx.ModelProto) -> tuple[tvm.IRModule, dict[str, Any], tuple[int, ...]]:
    """Return a model as an NCHW Relay module with labeled layers, its parameters by name and input shape.

    Raises
    ------
    CPruneError
        If the model has an operator that TVM cannot import or imports wrongly.
    """
    name, shape = input_of(model)
    expected = _output_shape(model)
    model = _axes_as_attributes(model)
    model.graph.input[0].name = INPUT
    for node in model.graph.node:
        for index, value in enumerate(node.input):
            node.input[index] = INPUT if value == name else value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mod, params = relay.frontend.from_onnx(model, {INPUT: shape}, freeze_params=False)
        mod = label_layers(tvm.IRModule({"main": mod["main"]}))
    except (tvm.error.TVMError, NotImplementedError, AssertionError, ValueError) as error:
        raise CPruneError(f"TVM cannot import the model: {last_line(error)}") from error
    body = mod["main"].body.checked_type
    actual = tuple(int(size) for size in body.shape) if isinstance(body, relay.TensorType) else ()
    if expected and actual != expected:
        raise CPruneError(
            f"TVM imports the model wrongly: its output has shape {actual}, expected {expected}"
        )
    return mod, params, shape


def _output_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """Return the shape that ONNX infers for the only output, () if there is none."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    if len(inferred.graph.output) != 1:
        return ()
    shape = tuple(int(dim.dim_value) for dim in inferred.graph.output[0].type.tensor_type.shape.dim)
    return () if 0 in shape else shape


def _axes_as_attributes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose reductions have their axes as an attribute, as before opset 18.

    TVM 0.17 reads only the first axis of an input.
    """
    model = copy.deepcopy(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in model.graph.node:
        if node.op_type.startswith("Reduce") and len(node.input) == 2 and node.input[1] in constants:
            axes = [int(axis) for axis in constants[node.input[1]].reshape(-1)]
            del node.input[1]
            node.attribute.append(helper.make_attribute("axes", axes))
    return model


def from_onnx(path: Path, layout: str = "NHWC") -> RelayModel:
    """Import an ONNX file.

    Parameters
    ----------
    path
        A model with one input of fixed shape ``(N, C, H, W)``.
    layout
        Layout of the convolutions: "NHWC" for auto_scheduler, "NCHW" for AutoTVM.

    Raises
    ------
    CPruneError
        If the file is not such a model, or has an operator that TVM cannot import.
    """
    mod, params, shape = import_onnx(load_onnx(path))
    return to_relay_model(mod, params, shape, layout)


def with_parameters(model: onnx.ModelProto, values: dict[str, Any]) -> onnx.ModelProto:
    """Return a copy of a model with new values for some of its weights, whose shapes may differ.

    Raises
    ------
    CPruneError
        If the new shapes do not suit the graph.
    """
    model = copy.deepcopy(model)
    depthwise = _depthwise_convolutions(model)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    for attribute, name in depthwise:
        attribute.i = values[name].shape[0] if name in values else attribute.i
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model)
        shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise CPruneError(f"the model's graph requires the original shapes: {last_line(error)}") from error
    return model


def _depthwise_convolutions(model: onnx.ModelProto) -> list[tuple[onnx.AttributeProto, str]]:
    """Return the group attribute and the weight's name of each depthwise convolution without multiplier."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        (attribute, node.input[1])
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in shapes
        for attribute in node.attribute
        if attribute.name == "group" and shapes[node.input[1]][:2] == [attribute.i, 1]
    ]
