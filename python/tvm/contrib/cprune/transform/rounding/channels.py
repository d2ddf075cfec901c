# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a Relay function share channels, and where channels may not be padded.

Every anchor creates a set of output channels, a variable. Operators between two anchors pass channels on,
join variables (a residual addition) or place them side by side (a concatenation). An operator that combines
channels, or that has no rule, requires exact arguments: padding is cut off in front of it.
"""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from tvm import relay
from tvm.contrib.cprune.transform.relay_graph import ANCHORS, calls_of, layer_of, operator_name, post_order
from tvm.contrib.cprune.transform.rounding.channel_layout import (
    EXACT,
    ChannelLayout,
    Reader,
    Segment,
    Use,
    shape_of,
)
from tvm.contrib.cprune.transform.rounding.padding import ARITHMETIC, PARAMETER_SHAPES, SCALAR_FUNCTIONS
from tvm.contrib.cprune.transform.rounding.rules import RULES

CONVOLUTION, DENSE = "nn.conv2d", "nn.dense"


@dataclass
class Variable:
    """A set of channels.

    Attributes
    ----------
    width
        Number of channels.
    round_to
        The width must remain a multiple of this.
    layers
        The layers that create the channels.
    exact_uses
        The operators that require the channels without padding.
    frozen
        Why the channels must not change, or "".
    """

    width: int
    round_to: int = 1
    layers: list[str] = field(default_factory=list)
    exact_uses: list[str] = field(default_factory=list)
    frozen: str = ""


class Channels:
    """The channel variables of a function, collected in one pass from inputs to outputs.

    Parameters
    ----------
    function
        A typed function with labeled layers (see ``LabelLayers``).
    parameters
        Names of the function's variables that are weights. Constants are weights, too.

    Attributes
    ----------
    variables
        All variables, including those that were joined with another.
    readers
        The layers whose programs constrain channels.
    uses
        The effect of each call that depends on data.
    layouts
        The channel layout of each node, None if it has no channels that may change.
    """

    def __init__(self, function: relay.Function, parameters: Collection[str] = ()) -> None:
        self.variables: list[Variable] = []
        self.readers: list[Reader] = []
        self.uses: dict[relay.Expr, Use] = {}
        self.layouts: dict[relay.Expr, ChannelLayout | None] = {}
        self._parent: list[int] = []
        self._parameter_names = set(parameters)
        self._is_parameter: dict[relay.Expr, bool] = {}
        anchors = [call for call in calls_of(function.body) if operator_name(call) in ANCHORS]
        self._calls_of_layer = Counter(layer_of(call) for call in anchors)
        for node in post_order(function.body):
            self._visit(node)
        self._require_exact(function.body, "the model's output")

    def find(self, variable: int) -> int:
        """Return the representative of the variables that were joined with this one."""
        while self._parent[variable] != variable:
            variable = self._parent[variable]
        return variable

    def roots(self) -> list[int]:
        """Return the representatives of all variables, in the order of their first anchor."""
        return [number for number in range(len(self.variables)) if self.find(number) == number]

    def join(self, a: ChannelLayout, b: ChannelLayout) -> bool:
        """Make two layouts share their channels. Return False if that is not possible."""
        if a.axis != b.axis or len(a.segments) != len(b.segments):
            return False
        pairs = list(zip(a.segments, b.segments, strict=True))
        if any((x.channels, x.scale) != (y.channels, y.scale) for x, y in pairs):
            return False
        if any((x.variable is None) != (y.variable is None) for x, y in pairs):
            return False
        for x, y in pairs:
            if x.variable is not None and y.variable is not None:
                self._unite(self.find(x.variable), self.find(y.variable))
        return True

    def is_parameter(self, node: relay.Expr) -> bool:
        """Return whether a node depends on parameters and constants only."""
        return self._is_parameter[node]

    def is_adjustable(self, node: relay.Expr) -> bool:
        """Return whether the channels of a parameter expression can be changed in its parameters."""
        if not self._is_parameter[node]:
            return False
        if isinstance(node, relay.Var | relay.Constant):
            return True
        if not isinstance(node, relay.Call):
            return False
        name = operator_name(node)
        if name == "broadcast_to" and shape_of(node) != shape_of(node.args[0]):
            return False
        supported = name in ARITHMETIC or name in SCALAR_FUNCTIONS or name in PARAMETER_SHAPES
        return supported and all(self.is_adjustable(arg) for arg in node.args)

    def _visit(self, node: relay.Expr) -> None:
        self._is_parameter[node] = self._depends_on_parameters_only(node)
        self.layouts[node] = None
        if isinstance(node, relay.Call) and not self._is_parameter[node]:
            use = self._use_of(node)
            self.uses[node], self.layouts[node] = use, use.result
            if use.exact:
                for arg in node.args:
                    self._require_exact(arg, operator_name(node))
        elif isinstance(node, relay.TupleGetItem):
            if not isinstance(node.tuple_value, relay.Call):
                self._require_exact(node.tuple_value, "a tuple")
            elif node.index == 0:  # the output of a batch norm or a dropout
                self.layouts[node] = self.layouts[node.tuple_value]

    def _depends_on_parameters_only(self, node: relay.Expr) -> bool:
        if isinstance(node, relay.Var):
            return str(node.name_hint) in self._parameter_names
        if isinstance(node, relay.Call):
            return bool(node.args) and all(self._is_parameter[arg] for arg in node.args)
        if isinstance(node, relay.Tuple):
            return all(self._is_parameter[value] for value in node.fields)
        return not isinstance(node, relay.TupleGetItem) or self._is_parameter[node.tuple_value]

    def _require_exact(self, node: relay.Expr, reason: str) -> None:
        """Record that ``node`` is used without padding."""
        for value in node.fields if isinstance(node, relay.Tuple) else [node]:
            layout = self.layouts[value]
            for segment in layout.segments if layout else ():
                if segment.variable is not None:
                    self.variables[self.find(segment.variable)].exact_uses.append(reason)

    def _create(self, width: int, layer: str, round_to: int = 1) -> ChannelLayout:
        """Create a variable and return its layout, the axis yet to be set."""
        number = len(self.variables)
        self._parent.append(number)
        frozen = "its layer is used more than once" if self._calls_of_layer[layer] > 1 else ""
        self.variables.append(Variable(width, round_to, [layer], frozen=frozen))
        return ChannelLayout(-1, (Segment(number, width),))

    def _unite(self, a: int, b: int) -> None:
        if a == b:
            return
        first, second = min(a, b), max(a, b)
        kept, joined = self.variables[first], self.variables[second]
        self._parent[second] = first
        kept.round_to = math.lcm(kept.round_to, joined.round_to)
        kept.layers += joined.layers
        kept.exact_uses += joined.exact_uses
        kept.frozen = kept.frozen or joined.frozen

    def _use_of(self, call: relay.Call) -> Use:
        name = operator_name(call)
        if name in ANCHORS:
            return self._use_of_anchor(call)
        layouts = [self.layouts[arg] for arg in call.args if not isinstance(arg, relay.Tuple)]
        if name != "concatenate" and not any(layouts):
            return Use()
        rule = RULES.get(name)
        return rule(self, call) if rule else EXACT

    def _use_of_anchor(self, call: relay.Call) -> Use:
        name, layer = operator_name(call), layer_of(call)
        if name not in (CONVOLUTION, DENSE) or layer is None or not self.is_adjustable(call.args[1]):
            return EXACT
        kernel, axis, groups = "OI", 1, 1
        if name == CONVOLUTION:
            kernel, axis = str(call.attrs.kernel_layout), str(call.attrs.data_layout).index("C")
            groups = int(call.attrs.groups)
            if len(kernel) != 4 or len(str(call.attrs.data_layout)) != 4:
                return EXACT
        data, width = self.layouts[call.args[0]], shape_of(call)[axis]
        if self._calls_of_layer[layer] > 1 or (data is not None and data.axis != axis):
            data = None
        if groups > 1 and groups == shape_of(call.args[0])[axis]:
            return self._use_of_depthwise(call, layer, data, width)
        if data is not None and groups > 1:
            data = self._grouped_input(data, groups)
        weight: dict[int, ChannelLayout] = {}
        if data is not None:
            self.readers.append(Reader(layer, "in", data.segments, groups))
            weight[kernel.index("I")] = data
        out = self._create(width, layer, groups).at(axis)
        self.readers.append(Reader(layer, "out", out.segments, groups))
        weight[kernel.index("O")] = out
        return Use(out, {1: weight}, exact=self.layouts[call.args[0]] is not None and data is None)

    def _grouped_input(self, data: ChannelLayout, groups: int) -> ChannelLayout | None:
        """Return the input layout of a grouped convolution, None if its groups would get unequal shares."""
        if len(data.segments) != 1 or data.segments[0].variable is None or data.segments[0].scale != 1:
            return None
        variable = self.variables[self.find(data.segments[0].variable)]
        if variable.width % math.lcm(variable.round_to, groups):
            return None
        variable.round_to = math.lcm(variable.round_to, groups)
        return data

    def _use_of_depthwise(self, call: relay.Call, layer: str, data: ChannelLayout | None, width: int) -> Use:
        """Return the use of a depthwise convolution, whose output has the channels of its input."""
        if data is None or width != int(call.attrs.groups):
            return EXACT
        if any(segment.scale != 1 for segment in data.segments):
            return EXACT
        kernel, shape = str(call.attrs.kernel_layout), shape_of(call.args[1])
        dims = [kernel.index(letter) for letter in "OI" if shape[kernel.index(letter)] == width]
        out = data.filled(lambda _: 0.0)
        if not dims or out is None:
            return EXACT
        self.readers.append(Reader(layer, "out", data.segments))
        return Use(out, {1: {dims[0]: data}})
