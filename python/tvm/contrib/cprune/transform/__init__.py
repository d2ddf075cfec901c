# SPDX-License-Identifier: Apache-2.0
"""Relay passes: naming layers, folding constants, recording subgraphs, rounding channels.

And one TIR pass, which reads the tile factors of a program from its loops."""

from tvm.contrib.cprune.transform.rounding.round_channels import RoundChannels
from tvm.contrib.cprune.transform.simplify import (
    DISABLED_PASSES,
    FoldParameters,
    FoldScales,
    LabelLayers,
    RecordSubgraphs,
    fuse,
    prepare,
)
from tvm.contrib.cprune.transform.tile_factors import RecordTileFactors

__all__ = [
    "DISABLED_PASSES",
    "FoldParameters",
    "FoldScales",
    "LabelLayers",
    "RecordSubgraphs",
    "RecordTileFactors",
    "RoundChannels",
    "fuse",
    "prepare",
]
