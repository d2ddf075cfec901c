# SPDX-License-Identifier: Apache-2.0
"""The pruning methods by name."""

from tvm.contrib.cprune.method_settings import MethodName
from tvm.contrib.cprune.methods.cprune import CPrune
from tvm.contrib.cprune.methods.global_ranking import GlobalRanking
from tvm.contrib.cprune.methods.knapsack import Knapsack
from tvm.contrib.cprune.methods.method import Method
from tvm.contrib.cprune.methods.netadapt import NetAdapt
from tvm.contrib.cprune.methods.progressive import Progressive
from tvm.contrib.cprune.methods.uniform import Uniform

_METHODS: dict[MethodName, Method] = {
    "cprune": CPrune(),
    "progressive": Progressive(),
    "knapsack": Knapsack(),
    "netadapt": NetAdapt(),
    "uniform": Uniform(),
    "global": GlobalRanking(),
}


def method_of(name: MethodName) -> Method:
    """Return a pruning method."""
    return _METHODS[name]
