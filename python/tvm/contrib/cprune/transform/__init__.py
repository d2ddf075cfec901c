# SPDX-License-Identifier: Apache-2.0
"""Relay passes that label layers, fold parameters, record subgraphs and round channels.

``RecordTileFactors`` is a TIR pass: it reads a program's tile factors from its loops.
"""

from tvm.contrib.cprune.transform.fold_parameters import FoldParameters, FoldScales
from tvm.contrib.cprune.transform.label_layers import LabelLayers
from tvm.contrib.cprune.transform.prepare import DISABLED_PASSES, prepare
from tvm.contrib.cprune.transform.record_subgraphs import RecordSubgraphs, fuse
from tvm.contrib.cprune.transform.rounding.round_channels import RoundChannels
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
