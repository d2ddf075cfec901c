# SPDX-License-Identifier: Apache-2.0
"""The subgraphs of a module: its fused primitive functions."""

from typing import Any

from tvm.relay import transform as relay_transform

import tvm
from tvm import relay
from tvm.contrib.cprune._plugin import find_subgraphs
from tvm.contrib.cprune.transform.relay_graph import ANCHORS


def fuse(mod: tvm.IRModule) -> tvm.IRModule:
    """Fuse the operators of a prepared module into primitive functions, as ``relay.build`` does."""
    return tvm.transform.Sequential([relay_transform.InferType(), relay_transform.FuseOps()])(mod)


@tvm.transform.module_pass(opt_level=0, name="RecordSubgraphs", required=["InferType"])
class RecordSubgraphs:
    """Record the subgraphs of a fused module without changing it.

    Attributes
    ----------
    subgraphs
        For each call of a primitive function, in post order: the function and its anchors' calls.
    """

    def __init__(self) -> None:
        self.subgraphs: list[tuple[relay.Function, list[relay.Call]]] = []

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        for call, *anchors in find_subgraphs(mod["main"].body, ANCHORS):
            self.subgraphs.append((call.op, anchors))
        return mod
