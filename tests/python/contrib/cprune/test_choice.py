# SPDX-License-Identifier: Apache-2.0
"""Choosing a width where none fits every program, and longer steps, on real programs."""

import pytest
import torch
from pruning import SHAPE, config, make_model, training

from tvm.contrib.cprune import step as step_module
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.loop.choice import fastest, settle
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.proposal import Proposal
from tvm.contrib.cprune.loop.run import AcceptedModel
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.types import CandidateError, ChannelGroup, ChannelStep


def test_the_width_with_the_fastest_programs_is_chosen():
    group = ChannelGroup("a", 64, 1, ())
    choices = [ChannelStep(group, width, "fits") for width in (48, 40, 32)]
    best = fastest(choices, {48: 0.9, 40: 0.6, 32: 0.8}, 1.2)
    assert best.next_width == 40
    assert best.reason == "fits; all programs together take 0.500 times as long"
    assert fastest(choices, {32: 2.0}, 1.0).next_width == 32
    # Without a valid program, the candidate is rejected like any other.
    assert fastest(choices, {}, 1.0) == choices[0]


def test_choices_are_measured_once(tuned_dir, monkeypatch):
    prunable = PrunableModel.trace(make_model(), SHAPE)
    group = prunable.groups().of_layer("b")
    choices = tuple(ChannelStep(group, width, "") for width in (56, 40, 33))
    with Compiler(config(), SHAPE, tuned_dir) as compiler:
        current = AcceptedModel(compiler.tune(prunable.model), prunable)
        row = current.candidate.table.of_layer("b")[0]
        assert settle(compiler, current, Proposal(row, choices[:1])).steps == choices[:1]
        before = compiler.programs.trials()
        chosen = settle(compiler, current, Proposal(row, (), choices))
        after = compiler.programs.trials()
        assert after["transplant"] > before["transplant"]
        sums = {}
        for step in choices:
            small = prunable.shrink([step], score_by_position).model
            sums[step.next_width] = compiler.move(current.candidate, small).table.predicted
        assert compiler.programs.trials() == after
        (step,) = chosen.steps
        assert (step.next_width, chosen.choices) == (min(sums, key=sums.get), ())

        def no_program(*_):
            raise CandidateError("no valid program")

        monkeypatch.setattr(Compiler, "transplant", no_program)
        assert settle(compiler, current, Proposal(row, (), choices)).steps == choices[:1]


def score_by_position(full_group):
    return torch.arange(len(full_group[0].idxs)).float()


@pytest.fixture
def no_joint_step(monkeypatch):
    monkeypatch.setattr(step_module, "joint_step", lambda *_: None)


def events_of(folder, **settings):
    """Return the candidates of a run whose candidates all keep their accuracy."""
    CPruner(make_model(), SHAPE, training(), config(**settings), folder).run()
    return [event for event in Journal(folder / "journal.jsonl").events if event["event"] == "candidate"]


def test_a_run_goes_on_where_no_width_fits(tuned_dir, latency_by_macs, no_joint_step):
    events = events_of(tuned_dir, max_iterations=2)
    assert events and all(event["accepted"] for event in events)
    for event in events:
        (reason,), ((_, (width, next_width)),) = event["reasons"], event["widths"].items()
        assert reason.startswith("fits programs that do") and "times as long" in reason
        assert width / 2 <= next_width < width


def test_a_run_ends_where_no_width_fits_if_partial_fits_are_turned_off(
    tuned_dir, latency_by_macs, no_joint_step
):
    assert events_of(tuned_dir, partial_fit=False) == []


def test_a_run_lengthens_its_steps_while_accuracy_is_to_spare(tuned_dir, latency_by_macs, monkeypatch):
    def step_of_four(group, table, start=None):
        return ChannelStep(group, (start or group.width) - 4, "four channels fewer")

    # The widths that fit depend on the programs that a search finds, and may be too few for longer steps.
    monkeypatch.setattr(step_module, "joint_step", step_of_four)
    events = events_of(tuned_dir)
    assert len(events) == 3 and all(event["spare"] for event in events)
    strides = [event["stride"] for event in events]
    assert strides[:2] == [1, 2] and 2 <= strides[2] <= 4
    for event in events:
        ((width, next_width),) = event["widths"].values()
        assert width - next_width == 4 * event["stride"]


@pytest.mark.parametrize("settings", [{"larger_steps": False}, {"step_rule": "paper"}])
def test_a_run_keeps_its_smallest_steps_if_told_so(settings, tuned_dir, latency_by_macs):
    events = events_of(tuned_dir, max_iterations=1, **settings)
    assert events
    assert {event["stride"] for event in events} == {1}
    assert not any(event["spare"] for event in events)
