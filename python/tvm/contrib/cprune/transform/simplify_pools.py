# SPDX-License-Identifier: Apache-2.0
"""Simpler operators for average pools of whole images and of single pixels."""

from typing import Any

import tvm
from tvm import relay
from tvm.contrib.cprune.transform.relay_graph import operator_name, rewrite

_POOLS = ("nn.adaptive_avg_pool2d", "nn.global_avg_pool2d")


@tvm.transform.module_pass(opt_level=0, name="SimplifyPools", required=["InferType"])
class SimplifyPools:
    """Replace average pools of whole images by means, and remove those whose windows are single pixels.

    The windows of an adaptive pool have expressions as bounds (``include/tvm/topi/nn/pooling.h``), so that
    Ansor cannot split their loops. It can split those of a mean.
    """

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return tvm.IRModule({"main": rewrite(mod["main"], _simplified)})


def _simplified(call: relay.Call, old: relay.Call) -> relay.Expr:
    if operator_name(call) not in _POOLS or old.args[0].checked_type.dtype != "float32":
        return call
    layout = str(call.attrs.layout)
    if sorted(layout) != sorted("NCHW") or str(call.attrs.out_layout) not in ("", layout):
        return call
    axes = [layout.index("H"), layout.index("W")]
    before, after = ([int(tensor.checked_type.shape[axis]) for axis in axes] for tensor in (old.args[0], old))
    if before == after:
        return call.args[0]
    return relay.mean(call.args[0], axes, keepdims=True) if after == [1, 1] else call
