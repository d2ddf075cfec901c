# SPDX-License-Identifier: Apache-2.0
"""Layer names in the spans of anchors."""

from typing import Any

import tvm
from tvm import relay
from tvm.contrib.cprune._plugin import collect_vars
from tvm.contrib.cprune.transform.relay_graph import ANCHORS, calls_of, layer_of, operator_name, rewrite
from tvm.contrib.cprune.types import CPruneError


@tvm.transform.module_pass(opt_level=0, name="LabelLayers", required=["InferType"])
class LabelLayers:
    """Write the layer of each anchor into its span.

    The layer is the name of the weight that the anchor reads, without ".weight". Spans survive the passes of
    a build, whatever these do to the order and number of calls.

    Raises
    ------
    CPruneError
        If an anchor's weight is computed from several parameters.
    """

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return tvm.IRModule({"main": rewrite(mod["main"], _label)})


def _label(call: relay.Call, _: relay.Call) -> relay.Expr:
    if operator_name(call) not in ANCHORS:
        return call
    names = {str(variable.name_hint) for variable in collect_vars(call.args[1])}
    if not names:
        return call
    if len(names) != 1:
        raise CPruneError(
            f"the weight of a {operator_name(call)} is computed from {sorted(names)[:4]}: "
            "expected one parameter"
        )
    span = relay.Span(relay.SourceName(names.pop().removesuffix(".weight")), 0, 0, 0, 0)
    return relay.Call(call.op, call.args, call.attrs, call.type_args, span)


def anchor_layers(mod: tvm.IRModule) -> tuple[str, ...]:
    """Return the layers of a labeled module, in the order of their first call."""
    anchors = [call for call in calls_of(mod["main"].body) if operator_name(call) in ANCHORS]
    return tuple(dict.fromkeys(layer for call in anchors if (layer := layer_of(call))))
