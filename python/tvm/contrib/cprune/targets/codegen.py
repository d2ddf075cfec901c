# SPDX-License-Identifier: Apache-2.0
"""How TVM compiles functions for CPUs: the same way when a program is timed and when a model is built."""

from collections.abc import Mapping, Sequence
from typing import Any

import tvm

# LLVM eliminates common subexpressions and simplifies indices itself. TVM's passes for that take a fifth of
# the compile time of direct convolutions and two fifths of that of Winograd convolutions. The programs are as
# fast without them (benchmarks/compile_time.py). What the first pass caches is never freed
# (src/tir/transforms/common_subexpr_elim_tools.cc).
CPU_CONFIG = {"tir.disable_cse_tir": True}
CPU_DISABLED_PASSES = ("tir.RenormalizeSplitPattern",)


def codegen_context(
    target: tvm.target.Target, config: Mapping[str, Any] | None = None, disabled: Sequence[str] = ()
) -> tvm.transform.PassContext:
    """Return the context in which functions are compiled for a target.

    Parameters
    ----------
    target
        On a GPU, all of TVM's passes run.
    config, disabled
        Further settings of the context, and passes to leave out.
    """
    cpu = target.kind.name == "llvm"
    return tvm.transform.PassContext(
        opt_level=3,
        config={**(CPU_CONFIG if cpu else {}), **(config or {})},
        disabled_pass=[*(CPU_DISABLED_PASSES if cpu else ()), *disabled],
    )
