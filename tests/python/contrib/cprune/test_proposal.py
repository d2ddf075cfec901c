# SPDX-License-Identifier: Apache-2.0
"""What to prune next, given the programs and the state of the loop."""

from pathlib import Path

import pytest
import torch
from programs import table_of
from pruning import SHAPE, config, make_model
from torch import nn

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
    # No step goes on to a width at which a longer one cost too much accuracy.
    (step,) = proposed(prunable, products, LoopState(missed={"a": 40})).steps
    assert step.next_width == 56
    assert proposed(prunable, products, LoopState(missed={"a": 40}, reached={"a": 48})) is None


# No width up to 64 is a multiple of both, and odd innermost lengths cannot shrink.
NOTHING_FITS = {"a": (11, 1), "b": (1, 13)}


def test_choices_are_proposed_where_no_width_fits(prunable):
    proposal = proposed(prunable, NOTHING_FITS, LoopState())
    assert proposal.steps == ()
    assert [step.next_width for step in proposal.choices] == [55, 52, 44]
    # After a width that cost too much accuracy, one halfway to it is the last.
    proposal = proposed(prunable, NOTHING_FITS, LoopState(limits={"a": 26}))
    assert proposal.choices == ()
    assert [step.next_width for step in proposal.steps] == [48]
    # Widths that were too slow are not proposed again.
    proposal = proposed(prunable, NOTHING_FITS, LoopState(reached={"a": 44}))
    assert [step.next_width for step in proposal.choices] == [39, 33, 26]
    assert proposed(prunable, NOTHING_FITS, LoopState(dropped=frozenset("a"))) is None


class Concatenation(nn.Module):
    """A convolution that reads the channels of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d = nn.Conv2d(8, 64, 1), nn.Conv2d(8, 32, 1)
        self.b = nn.Conv2d(96, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.cat([self.a(x), self.d(x)], 1))


def test_choices_come_before_a_step_that_removes_more_than_half():
    # 28 and 32 channels are a multiple of 60.
    prunable, products = PrunableModel.trace(Concatenation(), SHAPE), {"a": (7, 1), "b": (1, 60)}
    (step,) = proposed(prunable, products, LoopState(), partial_fit=False).steps
    assert (step.next_width, step.reason) == (28, "fits every program")
    proposal = proposed(prunable, products, LoopState())
    assert proposal.steps == ()
    assert [step.next_width for step in proposal.choices] == [63, 56, 49]
    # The step comes when the choices are exhausted.
    (step,) = proposed(prunable, products, LoopState(reached={"a": 32})).steps
    assert step.next_width == 28


def test_nothing_is_proposed_where_no_width_fits_if_partial_fits_are_turned_off(prunable):
    assert proposed(prunable, NOTHING_FITS, LoopState(), partial_fit=False) is None


def test_the_papers_rule_has_no_choices(prunable):
    proposal = proposed(prunable, NOTHING_FITS, LoopState(), step_rule="paper")
    assert proposal.choices == ()
    assert [step.next_width for step in proposal.steps] == [63]
