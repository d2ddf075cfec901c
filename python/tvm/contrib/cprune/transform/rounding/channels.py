# SPDX-License-Identifier: Apache-2.0
"""How channels travel through a Relay function: which tensors share them, and where they must stay as they
are.

Every anchor makes a new set of output channels, a variable. Operators between two anchors pass channels on,
join sets (a residual add), or put sets side by side (a concatenation). An operator that looks across channels
or that is not known here takes them as they are: whatever was padded is cut off in front of it.
"""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from tvm import relay
from tvm.contrib.cprune.transform.relay_graph import ANCHORS, layer_of, operator_name, post_order
from tvm.contrib.cprune.transform.rounding.channel_layout import (
    EXACT,
    ChannelLayout,
    Reader,
    Segment,
    Use,
    shape_of,
)
from tvm.contrib.cprune.transform.rounding.rules import ARITHMETIC, PARAMETER_SHAPES, RULES, SCALARS

CONVOLUTION, DENSE = "nn.conv2d", "nn.dense"


@dataclass
class Variable:
    """A set of channels, with the anchors that make it."""

    width: int
    round_to: int = 1
    layers: list[str] = field(default_factory=list)
    # Operators that need these channels without padding, and why they may not change at all.
    stops: list[str] = field(default_factory=list)
    frozen: str = ""


class Channels:
    """The channel variables of a function, found in one walk from its inputs to its outputs.

    Parameters
    ----------
    function
        Typed (after ``InferType``), its layers named in spans.
    parameters
        Variables of the function that hold weights, not data; constants are known.
    """

    def __init__(self, function: relay.Function, parameters: Collection[str] = ()) -> None:
        self.variables: list[Variable] = []
        self._parent: list[int] = []
        self.readers: list[Reader] = []
        self.uses: dict[relay.Expr, Use] = {}
        self.layouts: dict[relay.Expr, ChannelLayout | None] = {}
        self._names = set(parameters)
        self._parameter: dict[relay.Expr, bool] = {}
        nodes = post_order(function.body)
        self._counts = Counter(layer_of(n) for n in nodes if isinstance(n, relay.Call) and _is_anchor(n))
        for node in nodes:
            self._visit(node)
        self._stop(function.body, "the model's output")

    def find(self, variable: int) -> int:
        """Return the variable that stands for all that were joined with this one."""
        while self._parent[variable] != variable:
            variable = self._parent[variable]
        return variable

    def roots(self) -> list[int]:
        """Return the variables, joined ones once, in the order of their first anchor."""
        return [i for i in range(len(self.variables)) if self.find(i) == i]

    def is_parameter(self, node: relay.Expr) -> bool:
        """Whether a node depends on parameters and constants alone."""
        return self._parameter[node]

    def is_adjustable(self, node: relay.Expr) -> bool:
        """Whether a node is a parameter whose channels the parameters below it have, too."""
        if not self._parameter[node]:
            return False
        if isinstance(node, relay.Var | relay.Constant):
            return True
        if not isinstance(node, relay.Call):
            return False
        name = operator_name(node)
        if name == "broadcast_to" and shape_of(node) != shape_of(node.args[0]):
            return False
        known = name in ARITHMETIC or name in SCALARS or name in PARAMETER_SHAPES
        return known and all(self.is_adjustable(arg) for arg in node.args)

    def _visit(self, node: relay.Expr) -> None:
        if isinstance(node, relay.Var):
            self._parameter[node] = str(node.name_hint) in self._names
        elif isinstance(node, relay.Call):
            self._parameter[node] = bool(node.args) and all(self._parameter[arg] for arg in node.args)
        elif isinstance(node, relay.Tuple):
            self._parameter[node] = all(self._parameter[arg] for arg in node.fields)
        elif isinstance(node, relay.TupleGetItem):
            self._parameter[node] = self._parameter[node.tuple_value]
        else:
            self._parameter[node] = True
        self.layouts[node] = None
        if isinstance(node, relay.Call) and not self._parameter[node]:
            use = self._use(node)
            self.uses[node], self.layouts[node] = use, use.result
            if use.exact:
                for arg in node.args:
                    self._stop(arg, operator_name(node))
        elif isinstance(node, relay.TupleGetItem):
            if isinstance(node.tuple_value, relay.Call):  # of a batch norm or a dropout
                self.layouts[node] = self.layouts[node.tuple_value] if node.index == 0 else None
            else:
                self._stop(node.tuple_value, "a tuple")

    def _stop(self, node: relay.Expr, reason: str) -> None:
        """Note that ``node`` is needed without padding."""
        for each in node.fields if isinstance(node, relay.Tuple) else [node]:
            layout = self.layouts[each]
            for segment in layout.segments if layout else ():
                if segment.variable is not None:
                    self.variables[self.find(segment.variable)].stops.append(reason)

    def _new(self, width: int, layer: str, round_to: int = 1) -> ChannelLayout:
        self._parent.append(len(self.variables))
        self.variables.append(Variable(width, round_to, [layer]))
        if self._counts[layer] > 1:
            self.variables[-1].frozen = "its layer is used more than once"
        return ChannelLayout(-1, (Segment(len(self.variables) - 1, width),))

    def join(self, a: ChannelLayout, b: ChannelLayout) -> bool:
        """Make the channels of two layouts the same ones; return whether that is possible."""
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

    def _unite(self, a: int, b: int) -> None:
        if a == b:
            return
        a, b = min(a, b), max(a, b)
        one, other = self.variables[a], self.variables[b]
        self._parent[b] = a
        one.round_to = math.lcm(one.round_to, other.round_to)
        one.layers += other.layers
        one.stops += other.stops
        one.frozen = one.frozen or other.frozen

    def _use(self, call: relay.Call) -> Use:
        name = operator_name(call)
        if name in ANCHORS:
            return self._anchor(call)
        known = [self.layouts[arg] for arg in call.args if not isinstance(arg, relay.Tuple)]
        if name != "concatenate" and not any(known):
            return Use()
        rule = RULES.get(name)
        return rule(self, call) if rule else EXACT

    def _anchor(self, call: relay.Call) -> Use:
        name, layer = operator_name(call), layer_of(call)
        data = self.layouts[call.args[0]]
        if name not in (CONVOLUTION, DENSE) or layer is None or not self.is_adjustable(call.args[1]):
            return EXACT
        if self._counts[layer] > 1:
            data = None
        if name == DENSE:
            kernel, axis, groups = "OI", 1, 1
        else:
            kernel, axis = str(call.attrs.kernel_layout), str(call.attrs.data_layout).index("C")
            groups = int(call.attrs.groups)
            if len(kernel) != 4 or len(str(call.attrs.data_layout)) != 4:
                return EXACT
        shape = shape_of(call.args[1])
        width = shape_of(call)[axis]
        if data is not None and data.axis != axis:
            data = None
        if groups > 1 and groups == shape_of(call.args[0])[axis]:
            along = next((kernel.index(i) for i in "OI" if shape[kernel.index(i)] == width), -1)
            if along < 0:
                return EXACT
            return self._depthwise(layer, data, along, width, groups)
        use: dict[int, ChannelLayout] = {}
        if data is not None and groups > 1:
            data = self._blocks(data, groups)
        if data is not None:
            self.readers.append(Reader(layer, "in", data.segments, groups))
            use[kernel.index("I")] = data
        out = self._new(width, layer, groups).at(axis)
        self.readers.append(Reader(layer, "out", out.segments, groups))
        use[kernel.index("O")] = out
        exact = self.layouts[call.args[0]] is not None and data is None
        return Use(out, {1: use}, exact)

    def _blocks(self, data: ChannelLayout, groups: int) -> ChannelLayout | None:
        """Return the layout of a grouped convolution's input: each group must hold the same share of one
        set."""
        if len(data.segments) != 1 or data.segments[0].variable is None or data.segments[0].scale != 1:
            return None
        variable = self.variables[self.find(data.segments[0].variable)]
        if variable.width % math.lcm(variable.round_to, groups):
            return None
        variable.round_to = math.lcm(variable.round_to, groups)
        return data

    def _depthwise(self, layer: str, data: ChannelLayout | None, along: int, width: int, groups: int) -> Use:
        """Return the use of a depthwise convolution; ``along`` is its weight's dimension of channels."""
        if data is None or width != groups or any(each.scale != 1 for each in data.segments):
            return EXACT
        self.readers.append(Reader(layer, "out", data.segments))
        out = data.filled(lambda _: 0.0)
        assert out is not None
        return Use(out, {1: {along: data}})


def _is_anchor(call: relay.Call) -> bool:
    return operator_name(call) in ANCHORS
