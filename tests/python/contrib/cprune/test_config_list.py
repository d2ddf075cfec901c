# SPDX-License-Identifier: Apache-2.0
"""What to prune, as NNI 2.x spells it."""

import pytest
from conftest import Branches

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


def test_no_entries_leave_everything_to_the_defaults():
    assert read_config_list(Branches(), []) == {}
    both = read_config_list(Branches(), [{"sparsity": 0.5, "op_types": ["default"]}])
    assert "fc" in both["include"] and "left" in both["include"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sparsities": 0.5}, "has 'sparsities'; expected exclude, op_names, op_types, sparsity"),
        ({"op_types": ["Conv2d"]}, "has sparsity None, expected a number between 0 and 1"),
        ({"sparsity": 1.5}, "has sparsity 1.5"),
        ({"sparsity": 0.5, "op_names": ["no"]}, "names 'no'; the model's layers are stem.0, left"),
        ({"exclude": True, "op_names": ["left"]}, "leaves no layer to prune"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(entry, message):
    with pytest.raises(CPruneError, match=message):
        read_config_list(Branches(), [entry])
