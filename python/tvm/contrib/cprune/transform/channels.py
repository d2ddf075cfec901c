# SPDX-License-Identifier: Apache-2.0
"""How channels travel through a Relay function: which tensors share them, and where they must stay as they
are.

Every anchor makes a new set of output channels, a variable. Operators between two anchors pass channels on,
join sets (a residual add), or put sets side by side (a concatenation). An operator that looks across channels
or that is not known here takes them as they are: whatever was padded is cut off in front of it.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tvm import relay
from tvm.contrib.cprune.transform.simplify import ANCHORS, layer_of, operator_name, post_order

# Operators that parameters go through on their way to a layer and that keep their channels apart.
PARAMETER_SHAPES = ("broadcast_to", "expand_dims", "transpose")
CONVOLUTION, DENSE = "nn.conv2d", "nn.dense"
# What stands where channels were added: a number, or None for some finite number that depends on the data.
Fill = float | None


@dataclass(frozen=True)
class Segment:
    """``channels * scale`` neighbouring positions: ``scale`` of them belong to each channel of a variable.

    ``variable`` is None for channels that nobody may change.
    """

    variable: int | None
    channels: int
    scale: int = 1
    fill: Fill = 0.0

    @property
    def size(self) -> int:
        return self.channels * self.scale


@dataclass(frozen=True)
class Layout:
    """The channels of a tensor: the dimension they lie along, and the segments along it."""

    axis: int
    segments: tuple[Segment, ...]

    def filled(self, fill: Callable[[Fill], Fill]) -> "Layout | None":
        """Return the layout behind an elementwise function of the padding, None where that is not finite."""
        try:
            segments = tuple(replace(each, fill=fill(each.fill)) for each in self.segments)
        except (ArithmeticError, ValueError):
            return None
        fine = all(each.fill is None or math.isfinite(each.fill) for each in segments)
        return Layout(self.axis, segments) if fine else None

    def at(self, axis: int) -> "Layout":
        return Layout(axis, self.segments)


@dataclass(frozen=True)
class Use:
    """What becomes of one call: the layout of its result and, by argument, of its parameters' dimensions.

    ``exact`` calls get their arguments without padding.
    """

    result: Layout | None = None
    parameters: Mapping[int, Mapping[int, Layout]] = field(default_factory=dict)
    exact: bool = False


EXACT = Use(exact=True)


@dataclass(frozen=True)
class Reader:
    """An anchor that reads channels: their sum of sizes must suit its program along ``side``."""

    layer: str
    side: str
    segments: tuple[Segment, ...]
    groups: int = 1


@dataclass
class Variable:
    """A set of channels, with the anchors that make it."""

    width: int
    unit: int = 1
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
        self.layouts: dict[relay.Expr, Layout | None] = {}
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
        if name == "broadcast_to" and _shape(node) != _shape(node.args[0]):
            return False
        known = name in _ARITHMETIC or name in _SCALARS or name in PARAMETER_SHAPES
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

    def _new(self, width: int, layer: str, unit: int = 1) -> Layout:
        self._parent.append(len(self.variables))
        self.variables.append(Variable(width, unit, [layer]))
        if self._counts[layer] > 1:
            self.variables[-1].frozen = "its layer is used more than once"
        return Layout(-1, (Segment(len(self.variables) - 1, width),))

    def _join(self, a: Layout, b: Layout) -> bool:
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
        one.unit = math.lcm(one.unit, other.unit)
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
        rule = _RULES.get(name)
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
        shape = _shape(call.args[1])
        width = _shape(call)[axis]
        if data is not None and data.axis != axis:
            data = None
        if groups > 1 and groups == _shape(call.args[0])[axis]:
            along = next((kernel.index(i) for i in "OI" if shape[kernel.index(i)] == width), -1)
            if along < 0:
                return EXACT
            return self._depthwise(layer, data, along, width, groups)
        use: dict[int, Layout] = {}
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

    def _blocks(self, data: Layout, groups: int) -> Layout | None:
        """Return the layout of a grouped convolution's input: each group must hold the same share of one
        set."""
        if len(data.segments) != 1 or data.segments[0].variable is None or data.segments[0].scale != 1:
            return None
        variable = self.variables[self.find(data.segments[0].variable)]
        if variable.width % math.lcm(variable.unit, groups):
            return None
        variable.unit = math.lcm(variable.unit, groups)
        return data

    def _depthwise(self, layer: str, data: Layout | None, along: int, width: int, groups: int) -> Use:
        """Return the use of a depthwise convolution; ``along`` is its weight's dimension of channels."""
        if data is None or width != groups or any(each.scale != 1 for each in data.segments):
            return EXACT
        self.readers.append(Reader(layer, "out", data.segments))
        out = data.filled(lambda _: 0.0)
        assert out is not None
        return Use(out, {1: {along: data}})


def _is_anchor(call: relay.Call) -> bool:
    return operator_name(call) in ANCHORS


def _shape(node: relay.Expr) -> list[int]:
    return [int(size) for size in node.checked_type.shape]


def _axis(value: Any, rank: int) -> int:
    return int(value) % rank


def _same(call_fill: Callable[[relay.Call], Callable[[Fill], Fill]]) -> Callable[..., Use]:
    """Return the rule of an operator that leaves the tensor's dimensions alone."""

    def rule(channels: Channels, call: relay.Call) -> Use:
        layout = channels.layouts[call.args[0]]
        result = layout.filled(call_fill(call)) if layout else None
        return Use(result) if result else EXACT

    return rule


def _unary(function: Callable[[float], float], bounded: bool = True) -> Callable[..., Use]:
    """Return the rule of an elementwise function; an unbounded one may overflow on numbers that are not
    known."""

    def fill(value: Fill) -> Fill:
        if value is None and not bounded:
            raise ValueError
        return None if value is None else function(value)

    return _same(lambda _: fill)


def _keep_zero(value: Fill) -> Fill:
    return 0.0 if value == 0 else None


def _spatial(layout_attr: str, fill: Callable[[Fill], Fill] = _keep_zero) -> Callable[..., Use]:
    """Return the rule of an operator over the other dimensions, such as a pooling."""

    def rule(channels: Channels, call: relay.Call) -> Use:
        layout = channels.layouts[call.args[0]]
        if layout is None or str(getattr(call.attrs, layout_attr)).find("C") != layout.axis:
            return EXACT
        result = layout.filled(fill)
        return Use(result) if result else EXACT

    return rule


def _clip(call: relay.Call) -> Callable[[Fill], Fill]:
    low, high = float(call.attrs.a_min), float(call.attrs.a_max)
    return lambda value: None if value is None else min(max(value, low), high)


def _leaky(call: relay.Call) -> Callable[[Fill], Fill]:
    alpha = float(call.attrs.alpha)
    return lambda value: None if value is None else (value if value > 0 else alpha * value)


def _bias_add(channels: Channels, call: relay.Call) -> Use:
    layout = channels.layouts[call.args[0]]
    if layout is None or _axis(call.attrs.axis, len(_shape(call))) != layout.axis:
        return EXACT
    return Use(layout, {1: {0: layout}}) if channels.is_adjustable(call.args[1]) else EXACT


def _batch_norm(channels: Channels, call: relay.Call) -> Use:
    layout = channels.layouts[call.args[0]]
    if layout is None or _axis(call.attrs.axis, len(_shape(call.args[0]))) != layout.axis:
        return EXACT
    if not all(channels.is_adjustable(arg) for arg in call.args[1:]):
        return EXACT
    # With a scale and a shift of zero; the variance gets zero, too, and an epsilon.
    return Use(layout.filled(lambda _: 0.0), {i: {0: layout} for i in range(1, 5)})


def _prelu(channels: Channels, call: relay.Call) -> Use:
    layout = channels.layouts[call.args[0]]
    if layout is None or _axis(call.attrs.axis, len(_shape(call))) != layout.axis:
        return EXACT
    if not channels.is_adjustable(call.args[1]) or any(s.fill != 0 for s in layout.segments):
        return EXACT
    return Use(layout, {1: {0: layout}})


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": max,
    "minimum": min,
}


def _combine(name: str, a: Fill, b: Fill) -> Fill:
    """Return what an operator makes of two paddings.

    Raises
    ------
    ArithmeticError, ValueError
        If that may not be finite.
    """
    if a is not None and b is not None:
        return _ARITHMETIC[name](a, b)
    if name == "multiply" and 0 in (a, b):
        return 0.0
    if name == "divide":
        if b is None:
            raise ValueError
        return None if b else a / b  # type: ignore[operator]
    return None


def _binary(channels: Channels, call: relay.Call) -> Use:
    """The rule of an elementwise function of two tensors or of a tensor and a parameter, with
    broadcasting."""
    name, rank = operator_name(call), len(_shape(call))
    left, right = (channels.layouts[arg] for arg in call.args)
    shapes = [_shape(arg) for arg in call.args]

    def shifted(layout: Layout, shape: list[int]) -> Layout:
        return layout.at(layout.axis + rank - len(shape))

    if left and right:
        left, right = shifted(left, shapes[0]), shifted(right, shapes[1])
        if not channels._join(left, right):
            return EXACT
        try:
            segments = [
                replace(a, fill=_combine(name, a.fill, b.fill))
                for a, b in zip(left.segments, right.segments, strict=True)
            ]
        except (ArithmeticError, ValueError):
            return EXACT
        return Use(Layout(left.axis, tuple(segments)))

    side = 0 if left else 1
    layout, other = shifted(left or right, shapes[side]), call.args[1 - side]  # type: ignore[arg-type]
    dim = layout.axis - (rank - len(shapes[1 - side]))
    size = shapes[1 - side][dim] if dim >= 0 else 1
    parameters: dict[int, dict[int, Layout]] = {}
    fill: Fill = None
    if size == 1 and shapes[side][layout.axis - (rank - len(shapes[side]))] == 1:
        return EXACT  # one channel, and broadcast: not to be told apart
    if size == 1:
        if isinstance(other, relay.Constant) and math.prod(_shape(other)) == 1:
            fill = float(other.data.numpy().reshape(()))
    elif channels.is_adjustable(other):
        parameters[1 - side] = {dim: layout}
        fill = parameter_fill(other)
    else:
        return EXACT
    combined = layout.filled(lambda v: _combine(name, v, fill) if side == 0 else _combine(name, fill, v))
    return Use(combined, parameters) if combined else EXACT


def parameter_fill(node: relay.Expr) -> Fill:
    """Return what a parameter's expression is where all parameters in it are padded with zeros, None if not
    known."""
    if isinstance(node, relay.Var):
        return 0.0
    if isinstance(node, relay.Constant):
        values = node.data.numpy()
        return float(values.reshape(())) if values.size == 1 else 0.0
    if isinstance(node, relay.Call):
        fills = [parameter_fill(arg) for arg in node.args]
        name = operator_name(node)
        if name in _ARITHMETIC and None not in fills:
            return _ARITHMETIC[name](*fills)  # type: ignore[arg-type]
        if name in _SCALARS and None not in fills:
            return _SCALARS[name](*fills)  # type: ignore[arg-type]
        if name in PARAMETER_SHAPES:
            return fills[0]
    return None


def _reduce(channels: Channels, call: relay.Call) -> Use:
    layout, rank = channels.layouts[call.args[0]], len(_shape(call.args[0]))
    if layout is None or call.attrs.axis is None or bool(call.attrs.exclude):
        return EXACT
    gone = {_axis(each, rank) for each in call.attrs.axis}
    if layout.axis in gone:
        return EXACT
    axis = layout.axis if bool(call.attrs.keepdims) else layout.axis - sum(1 for g in gone if g < layout.axis)
    result = layout.filled(_keep_zero)
    return Use(result.at(axis)) if result else EXACT


def _reshape(channels: Channels, call: relay.Call) -> Use:
    """The rule of a reshape that keeps the channels in one dimension, alone or with what follows them."""
    layout = channels.layouts[call.args[0]]
    if layout is None:
        return EXACT
    old, new = _shape(call.args[0]), _shape(call)
    before, width = math.prod(old[: layout.axis]), old[layout.axis]
    done = 1
    for axis, size in enumerate(new):
        if done == before and size % width == 0 and size > 1:
            after = old[layout.axis + 1 :]
            scale = size // width
            if math.prod(new[axis + 1 :]) * scale != math.prod(after):
                return EXACT
            segments = tuple(replace(each, scale=each.scale * scale) for each in layout.segments)
            return Use(Layout(axis, segments))
        done *= size
    return EXACT


def _transpose(channels: Channels, call: relay.Call) -> Use:
    layout, rank = channels.layouts[call.args[0]], len(_shape(call))
    if layout is None:
        return EXACT
    axes = [_axis(a, rank) for a in call.attrs.axes] if call.attrs.axes else list(range(rank))[::-1]
    return Use(layout.at(axes.index(layout.axis)))


def _layout_transform(channels: Channels, call: relay.Call) -> Use:
    layout, source, target = channels.layouts[call.args[0]], str(call.attrs.src_layout), call.attrs.dst_layout
    if layout is None or sorted(source) != sorted(str(target)) or not source.isupper():
        return EXACT
    return Use(layout.at(str(target).index(source[layout.axis])))


def _squeeze(channels: Channels, call: relay.Call) -> Use:
    layout, shape = channels.layouts[call.args[0]], _shape(call.args[0])
    if layout is None:
        return EXACT
    axes = call.attrs.axis
    gone = (
        {i for i, n in enumerate(shape) if n == 1} if axes is None else {_axis(a, len(shape)) for a in axes}
    )
    return EXACT if layout.axis in gone else Use(layout.at(layout.axis - sum(g < layout.axis for g in gone)))


def _expand_dims(channels: Channels, call: relay.Call) -> Use:
    layout, rank, count = channels.layouts[call.args[0]], len(_shape(call)), int(call.attrs.num_newaxis)
    if layout is None:
        return EXACT
    first = int(call.attrs.axis)
    first = first if first >= 0 else rank - count + 1 + first
    return Use(layout.at(layout.axis + (count if first <= layout.axis else 0)))


def _pad(channels: Channels, call: relay.Call) -> Use:
    layout = channels.layouts[call.args[0]]
    if layout is None or any(int(n) for n in call.attrs.pad_width[layout.axis]):
        return EXACT
    result = layout.filled(_keep_zero) if parameter_fill(call.args[1]) == 0 else layout.filled(lambda _: None)
    return Use(result) if result and channels.is_parameter(call.args[1]) else EXACT


def _concatenate(channels: Channels, call: relay.Call) -> Use:
    fields = call.args[0].fields if isinstance(call.args[0], relay.Tuple) else []
    layouts, rank = [channels.layouts[each] for each in fields], len(_shape(call))
    known = [each for each in layouts if each]
    if not known:
        return Use()
    axis = _axis(call.attrs.axis, rank)
    if any(each.axis != known[0].axis for each in known):
        return EXACT
    if axis != known[0].axis:
        if len(known) < len(layouts) or not all(channels._join(known[0], each) for each in known[1:]):
            return EXACT
        fills = [{each.segments[i].fill for each in known} for i in range(len(known[0].segments))]
        same = [
            replace(segment, fill=segment.fill if len(found) == 1 else None)
            for segment, found in zip(known[0].segments, fills, strict=True)
        ]
        return Use(Layout(known[0].axis, tuple(same)))
    segments: list[Segment] = []
    for each, node in zip(layouts, fields, strict=True):
        segments += each.segments if each else [Segment(None, _shape(node)[axis])]
    return Use(Layout(axis, tuple(segments)))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


_SCALARS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "erf": math.erf,
    "exp": math.exp,
    "negative": lambda v: -v,
    "nn.relu": lambda v: max(v, 0.0),
    "rsqrt": lambda v: 1 / math.sqrt(v),
    "sigmoid": _sigmoid,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
}
_UNBOUNDED = {"exp", "rsqrt", "sqrt"}
_RULES: dict[str, Callable[[Channels, relay.Call], Use]] = {
    **{name: _unary(function, name not in _UNBOUNDED) for name, function in _SCALARS.items()},
    **dict.fromkeys(_ARITHMETIC, _binary),
    **dict.fromkeys(("mean", "sum", "max", "min"), _reduce),
    **dict.fromkeys(("nn.avg_pool2d", "nn.max_pool2d", "nn.global_avg_pool2d"), _spatial("layout")),
    **dict.fromkeys(("nn.global_max_pool2d", "nn.adaptive_avg_pool2d"), _spatial("layout")),
    **dict.fromkeys(("nn.adaptive_max_pool2d", "nn.upsampling", "image.resize2d"), _spatial("layout")),
    "clip": _same(_clip),
    "concatenate": _concatenate,
    "copy": _same(lambda _: lambda v: v),
    "expand_dims": _expand_dims,
    "layout_transform": _layout_transform,
    "nn.batch_flatten": _reshape,
    "nn.batch_norm": _batch_norm,
    "nn.bias_add": _bias_add,
    "nn.dropout": _same(lambda _: lambda v: v),
    "nn.leaky_relu": _same(_leaky),
    "nn.pad": _pad,
    "nn.prelu": _prelu,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
