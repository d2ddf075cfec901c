# SPDX-License-Identifier: Apache-2.0
"""NNI config lists translated into ``PruneConfig``."""

import pytest
from networks import Branches

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.nni.config_list import read_config_list
from tvm.contrib.cprune.types import CPruneError


def test_later_entries_override_earlier_ones():
    settings = read_config_list(
        Branches(),
        [
            {"sparsity": 0.5, "op_types": ["Conv2d"]},
            {"sparsity": 0.25, "op_names": ["left", "mix"]},
            {"exclude": True, "op_names": ["squeeze", "excite"]},
        ],
    )
    assert dict(settings["layer_sparsity"]) == {
        **dict.fromkeys(("stem.0", "right", "depthwise", "grouped"), 0.5),
        **dict.fromkeys(("left", "mix"), 0.25),
    }
    assert set(settings["include"]) == set(dict(settings["layer_sparsity"]))
    assert PruneConfig(**settings).sparsity_of("left") == 0.25


def test_an_empty_list_keeps_the_defaults_and_default_matches_every_layer():
    assert read_config_list(Branches(), []) == {}
    settings = read_config_list(Branches(), [{"sparsity": 0.5, "op_types": ["default"]}])
    assert "fc" in settings["include"] and "left" in settings["include"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"sparsities": 0.5},
            "unknown key 'sparsities' in config_list; expected exclude, op_names, op_types, sparsity",
        ),
        ({"op_types": ["Conv2d"]}, "sparsity is None in config_list; expected a number between 0 and 1"),
        ({"sparsity": 1.5}, "sparsity is 1.5"),
        (
            {"sparsity": 0.5, "op_names": ["no"]},
            "unknown layer 'no' in config_list; expected some of stem.0, left",
        ),
        ({"exclude": True, "op_names": ["left"]}, "leaves no layer to prune"),
    ],
)
def test_invalid_entries_are_rejected(entry, message):
    with pytest.raises(CPruneError, match=message):
        read_config_list(Branches(), [entry])
