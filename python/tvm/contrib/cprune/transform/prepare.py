# SPDX-License-Identifier: Apache-2.0
"""The form of a module that extraction and building start from."""

from collections.abc import Mapping
from typing import Any

from tvm.relay import transform as relay_transform
from tvm.relay.build_module import bind_params_by_name

import tvm
from tvm.contrib.cprune.transform.fold_parameters import FoldParameters, FoldScales
from tvm.contrib.cprune.transform.label_layers import LabelLayers
from tvm.contrib.cprune.transform.simplify_pools import SimplifyPools

PREPARED = "cprune.prepared"
# Passes that relay.build skips on a prepared module. They would lose the spans that name layers
# (FoldScaleAxis, ToBasicBlockNormalForm), select another algorithm (AlterOpLayout), or repeat work. Without
# them, a build fuses the same functions that extraction saw.
DISABLED_PASSES = (
    "AlterOpLayout",
    "BackwardFoldScaleAxis",
    "CanonicalizeCast",
    "CanonicalizeOps",
    "CombineParallelBatchMatmul",
    "CombineParallelConv2d",
    "CombineParallelDense",
    "EliminateCommonSubexpr",
    "FastMath",
    "FlattenAtrousConv",
    "FoldScaleAxis",
    "ForwardFoldScaleAxis",
    "Legalize",
    "SimplifyExpr",
    "SimplifyExprPostAlterOp",
    "SimplifyInference",
    "ToBasicBlockNormalForm",
    "qnn.Legalize",
)


def prepare(mod: tvm.IRModule, params: Mapping[str, Any] | None = None) -> tvm.IRModule:
    """Label layers, bind parameters, fold batch norms and simplify pools.

    A prepared module is returned unchanged.
    """
    main = mod["main"]
    if main.attrs is not None and PREPARED in main.attrs:
        return mod
    with tvm.transform.PassContext(opt_level=3):
        label = [relay_transform.InferType(), relay_transform.SimplifyInference(), LabelLayers()]
        mod = tvm.transform.Sequential(label)(tvm.IRModule({"main": main}))
        mod = tvm.IRModule({"main": bind_params_by_name(mod["main"], dict(params or {}))})
        fold = [
            FoldParameters(),
            relay_transform.CanonicalizeOps(),
            FoldParameters(),
            relay_transform.EliminateCommonSubexpr(),
            relay_transform.InferType(),
            FoldScales(),
            relay_transform.InferType(),
            SimplifyPools(),
            relay_transform.InferType(),
        ]
        mod = tvm.transform.Sequential(fold)(mod)
    return tvm.IRModule({"main": mod["main"].with_attr(PREPARED, tvm.tir.IntImm("int32", 1))})
