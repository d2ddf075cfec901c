# SPDX-License-Identifier: Apache-2.0
"""Relay passes: naming layers, folding constants, recording subgraphs, rounding channels."""

from tvm.contrib.cprune.transform.rounding import RoundChannels
from tvm.contrib.cprune.transform.simplify import (
    DISABLED_PASSES,
    FoldParameters,
    FoldScales,
    LabelLayers,
    RecordSubgraphs,
    fuse,
    prepare,
)

__all__ = [
    "DISABLED_PASSES",
    "FoldParameters",
    "FoldScales",
    "LabelLayers",
    "RecordSubgraphs",
    "RoundChannels",
    "fuse",
    "prepare",
]
