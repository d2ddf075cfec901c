# SPDX-License-Identifier: Apache-2.0
"""What to prune next, given the programs and the state of the loop."""

from pathlib import Path

import pytest
from programs import table_of
from pruning import SHAPE, config, make_model

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.loop.proposal import propose
from tvm.contrib.cprune.loop.run import AcceptedModel
from tvm.contrib.cprune.loop.state import LoopState
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import widths


@pytest.fixture(scope="module")
def prunable():
    return PrunableModel.trace(make_model(), SHAPE)


def proposed(prunable, products, state, **settings):
    """Return the proposal for the chain's layer ``a``, with the programs of ``table_of(products)``."""
    current = AcceptedModel(Candidate(prunable.model, None, table_of(products), Path()), prunable)
    return propose(current, state, widths(prunable.model), config(include=("a",), **settings))


def test_steps_are_as_long_as_the_state_says(prunable):
    products = {"a": (8, 1), "b": (1, 4)}
    for stride, width in ((1, 56), (2, 48), (4, 32), (8, 32)):
        (step,) = proposed(prunable, products, LoopState(stride=stride)).steps
        assert (step.group.root, step.next_width, step.stride) == ("a", width, min(stride, 4))
    # A group that lost too much accuracy alone gets its smallest step.
    (step,) = proposed(prunable, products, LoopState(stride=4, limits={"a": 40})).steps
    assert (step.next_width, step.stride) == (56, 1)
