# SPDX-License-Identifier: Apache-2.0
"""How TVM compiles functions for CPUs: the same way when a program is timed and when a model is built."""

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm.contrib.cprune.targets.exponentials import expand_exponentials
from tvm.contrib.cprune.targets.split_vectors import split_vectors
from tvm.contrib.cprune.targets.target import vector_lanes

# LLVM eliminates common subexpressions and simplifies indices itself. TVM's passes for that take a fifth of
# the compile time of direct convolutions and two fifths of that of Winograd convolutions. The programs are as
# fast without them (benchmarks/compile_time.py). What the first pass caches is never freed
# (src/tir/transforms/common_subexpr_elim_tools.cc).
CPU_CONFIG = {"tir.disable_cse_tir": True}
CPU_DISABLED_PASSES = ("tir.RenormalizeSplitPattern",)


def codegen_context(
    target: tvm.target.Target,
    config: Mapping[str, Any] | None = None,
    disabled: Sequence[str] = (),
    lower_passes: Sequence[Sequence[Any]] = (),
) -> tvm.transform.PassContext:
    """Return the context in which functions are compiled for a target.

    Parameters
    ----------
    target
        On a GPU, all of TVM's passes run.
    config, disabled
        Further settings of the context, and passes to leave out.
    lower_passes
        Further passes that take part in lowering, as TVM's setting ``tir.add_lower_pass`` lists them.
    """
    cpu = target.kind.name == "llvm"
    own = (split_vectors(vector_lanes(str(target))), expand_exponentials()) if cpu else ()
    passes = [*([1, own_pass] for own_pass in own), *lower_passes]
    return tvm.transform.PassContext(
        opt_level=3,
        config={**(CPU_CONFIG if cpu else {}), "tir.add_lower_pass": passes, **(config or {})},
        disabled_pass=[*(CPU_DISABLED_PASSES if cpu else ()), *disabled],
    )
