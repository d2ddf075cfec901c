# SPDX-License-Identifier: Apache-2.0
"""Whole runs of the methods other than CPrune, with resumption after an interruption."""

import json
import shutil
from pathlib import Path

import pytest
from method_runs import (
    accuracy_by_width,
    config,
    interrupt_at,
    journal_of,
    multiples_of_eight,
    predict_by_flops,
    run,
)
from programs import FAST
from pruning import SHAPE, make_model, time_by_macs
from torch import nn

from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.methods import knapsack
from tvm.contrib.cprune.models.surgery import macs_and_params, widths
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import CandidateError, ChannelGroup, CPruneError

TOTAL = macs_and_params(make_model(), SHAPE)[0]


@pytest.fixture(autouse=True)
def latency_by_macs(monkeypatch):
    monkeypatch.setattr(Compiler, "time", time_by_macs)


@pytest.fixture
def program_latency_by_flops(monkeypatch):
    predict_by_flops(monkeypatch)


def first_and_last(group: ChannelGroup, table: TaskTable, config: PruneConfig) -> tuple[int, ...]:
    widths = multiples_of_eight(group, table, config)
    return widths[0], widths[-1]


@pytest.fixture
def tuned_dir(tuned_run, tmp_path) -> Path:
    """Return the folder of a new run that has the records of the unpruned model."""
    shutil.copytree(tuned_run("chain", make_model(), SHAPE) / "records", tmp_path / "records")
    return tmp_path


@pytest.mark.parametrize(
    "settings",
    [
        config("uniform", macs_goal=0.5),
        config("uniform", macs_goal=0.5, round_widths=True),
        config("global", macs_goal=0.5),
    ],
    ids=["uniform", "rounded", "global"],
)
def test_a_one_shot_method_measures_one_candidate_and_is_not_repeated_after_a_kill(
    settings, tuned_dir, monkeypatch
):
    with pytest.raises(KeyboardInterrupt):
        run(tuned_dir, settings, report=interrupt_at(1))
    (candidate,) = journal_of(tuned_dir, "candidate")
    moved, move = [], Compiler.move

    def recorded_move(compiler, current, model, **options):
        moved.append(model)
        return move(compiler, current, model, **options)

    monkeypatch.setattr(Compiler, "move", recorded_move)
    result = run(tuned_dir, settings, resume=True)
    assert journal_of(tuned_dir, "candidate") == [candidate]
    # The accepted model is compiled again, from its checkpoint.
    assert [widths(model) for model in moved] == [result["pruned"]["widths"]]
    assert result == json.loads((tuned_dir / "result.json").read_text())
    assert result["accepted"] == len(result["iterations"]) == 1
    share = result["pruned"]["macs"] / TOTAL
    assert (0.2 if settings.round_widths else 0.4) < share <= 0.5
    assert result["speedup"] == pytest.approx(1 / share)
    assert result["stopped_because"] == f"{share:.3f} of the multiply-accumulates remain; the goal is 0.5"
    assert result["method"]["name"] == settings.method
    assert result["method"]["macs_goal"] == 0.5
    assert "alpha" not in result["method"]
    for root, (old, new) in result["iterations"][0]["widths"].items():
        assert result["baseline"]["widths"][root] == old
        assert result["pruned"]["widths"][root] == new < old
    assert "as fast as the unpruned model" in (tuned_dir / "report.html").read_text()


def test_a_one_shot_candidate_that_cannot_be_built_is_an_error(tuned_dir, monkeypatch):
    def no_program(*_):
        raise CandidateError("no valid program for task a in 8 trials")

    monkeypatch.setattr(Compiler, "transplant", no_program)
    with pytest.raises(CPruneError, match="the pruned model cannot be built: no valid program for task a"):
        run(tuned_dir, config("uniform", macs_goal=0.5))
    assert not (tuned_dir / "result.json").exists()


def test_an_unreachable_goal_is_reported_before_anything_is_tuned(tmp_path):
    with pytest.raises(CPruneError, match="the goal is to keep"):
        run(tmp_path / "run", config("global", macs_goal=0.01))
    assert not (tmp_path / "run").exists()


def test_netadapt_keeps_the_most_accurate_of_equal_cuts_and_continues_after_a_kill(
    tuned_dir, program_latency_by_flops
):
    settings = config("netadapt", latency_cut=0.1, accuracy_requirement=0.86)
    training = Training(short_term=lambda model: trained.append(model), evaluate=accuracy_by_width)
    trained: list[nn.Module] = []
    with pytest.raises(KeyboardInterrupt):
        run(tuned_dir, settings, training, interrupt_at(2))
    begun = journal_of(tuned_dir, "candidate")
    result = run(tuned_dir, settings, training, resume=True)
    events = Journal(tuned_dir / "journal.jsonl").events
    assert [event for event in events if event["event"] == "candidate"][:2] == begun
    assert (
        len(trained) == len(result["iterations"]) == sum(len(tried) for _, tried, _ in split_rounds(events))
    )
    rounds = split_rounds(events)
    assert rounds[0][0]["widths"] == first_cuts(0.1)
    assert len(rounds) == 2 and result["accepted"] == 1
    assert "is below the requirement of 0.8600" in result["stopped_because"]
    accuracy = 0.9
    for plan, tried, accepted in rounds:
        assert [list(event["widths"]) for event in tried] == [[root] for root in plan["widths"]]
        if accepted is None:
            continue
        assert accepted["accuracy_val"] == max(event["accuracy_val"] for event in tried)
        assert accepted["accuracy_val"] >= 0.86
        accuracy = accepted["accuracy_val"]
    assert result["pruned"]["accuracy_val"] == accuracy
    assert (
        sum(it["accepted"] for it in result["iterations"])
        == result["accepted"]
        == len([accepted for *_, accepted in rounds if accepted])
    )
    last = next(accepted for *_, accepted in reversed(rounds) if accepted)
    assert result["speedup"] == pytest.approx(last["speedup"])


def first_cuts(cut: float) -> dict[str, int]:
    """Return the largest multiple of 16 of each layer that removes a share of the operations."""
    # Multiply-accumulates of a, b, c by their output and input channels, at 8x8, 8x8 and 4x4 pixels.
    macs = lambda a, b, c: 64 * 9 * 8 * a + 64 * a * b + 16 * 9 * b * c + c * 4  # noqa: E731
    full = {"a": 64, "b": 64, "c": 32}
    cuts = {}
    for root, width in full.items():
        fits = [w for w in range(16, width, 16) if macs(**{**full, root: w}) <= (1 - cut) * macs(**full)]
        if fits:
            cuts[root] = max(fits)
    return cuts


def split_rounds(events):
    """Return the plan, the candidates and the accepted candidate, or None, of each iteration."""
    rounds = []
    for event in events:
        if event["event"] == "plan":
            rounds.append([event, [], None])
        elif event["event"] == "accepted":
            rounds[-1][2] = event
        elif event["event"] == "candidate":
            rounds[-1][1].append(event)
    return rounds


def test_netadapt_stops_at_its_goal_and_at_its_limits(tuned_dir, tmp_path_factory, program_latency_by_flops):
    folder = tmp_path_factory.mktemp("limit")
    shutil.copytree(tuned_dir / "records", folder / "records")
    result = run(folder, config("netadapt", latency_cut=0.1, max_iterations=1))
    assert result["stopped_because"] == "the limit of 1 iteration was reached"
    assert result["accepted"] == 1 and len(result["iterations"]) > 1
    result = run(tuned_dir, config("netadapt", latency_cut=0.1, speedup_goal=1.05))
    assert result["stopped_because"] == "the speed-up goal of 1.05 was reached"
    assert result["speedup"] >= 1.05


@pytest.mark.parametrize(
    "goal", [{"speedup_goal": 2.0}, {"latency_goal": TOTAL * 0.7e-6}], ids=["speedup", "milliseconds"]
)
def test_knapsack_meets_a_latency_budget_and_continues_after_a_kill(
    goal, tuned_dir, program_latency_by_flops
):
    """The time of a model is 1 ms for a million multiply-accumulates."""
    settings = config("knapsack", **goal)
    with pytest.raises(KeyboardInterrupt):
        run(tuned_dir, settings, report=interrupt_at(2, "staircase"))
    begun = journal_of(tuned_dir, "staircase")
    with pytest.raises(KeyboardInterrupt):
        run(tuned_dir, settings, report=interrupt_at(1), resume=True)
    result = run(tuned_dir, settings, resume=True)
    staircases = journal_of(tuned_dir, "staircase")
    assert staircases[:2] == begun
    assert [event["root"] for event in staircases] == ["a", "b", "c"]
    assert staircases[0]["layers_s"].keys() == {"a", "b"}
    trials = [event["trials"]["transplant"] for event in journal_of(tuned_dir, "baseline") + staircases]
    assert trials == sorted(set(trials))  # each staircase needs new ones
    share = result["pruned"]["macs"] / TOTAL
    most = 0.5 if "speedup_goal" in goal else 0.7
    assert 0.95 * most <= share <= most
    assert result["accepted"] == sum(it["accepted"] for it in result["iterations"]) == 1
    assert len(result["iterations"]) == len(journal_of(tuned_dir, "candidate")) <= knapsack.ROUNDS
    if "speedup_goal" in goal:
        reason = f"a speedup of {1 / share:.2f} meets the budget (a speedup of 2.00)"
    else:
        reason = f"{share * TOTAL * 1e-6:.3f} ms meets the budget ({most * TOTAL * 1e-6:.3f} ms)"
    assert result["stopped_because"] == reason
    assert result["method"]["name"] == "knapsack"


def test_knapsack_searches_for_the_programs_of_its_candidates(
    tuned_dir, program_latency_by_flops, monkeypatch
):
    searches, search_again = [], Compiler.search_again

    def killed_once(compiler, current, trials, name):
        searches.append((name, trials))
        made = search_again(compiler, current, trials, name)
        if len(searches) == 1:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(Compiler, "search_again", killed_once)
    settings = config("knapsack", speedup_goal=2.0, final_trials=FAST.trials)
    with pytest.raises(KeyboardInterrupt):
        run(tuned_dir, settings)
    found = len(RecordLog.read(next((tuned_dir / "records").glob("*/search.json"))).measured)
    result = run(tuned_dir, settings, resume=True)
    count = len(result["iterations"])
    candidates = [("candidate", FAST.trials)] * (count + 1)
    assert searches == [*candidates, ("pruned", FAST.trials), ("baseline", FAST.trials)]
    first = journal_of(tuned_dir, "candidate")[0]
    # The programs that were found before the kill are not searched again.
    assert first["trials"]["search"] == found > result["trials"]["first_tuning"]["search"]


def test_knapsack_names_the_fastest_candidate_if_the_budget_is_too_small(
    tuned_dir, program_latency_by_flops, monkeypatch
):
    monkeypatch.setattr(knapsack, "widths_to_measure", first_and_last)
    result = run(tuned_dir, config("knapsack", speedup_goal=1000.0, max_sparsity=0.5))
    assert result["pruned"]["widths"] == {"a": 32, "b": 32, "c": 16, "fc": 4}
    assert "no candidate meets the budget (a speedup of 1000.00)" in result["stopped_because"]


def test_knapsack_leaves_a_model_that_meets_the_budget(tuned_dir):
    result = run(tuned_dir, config("knapsack", latency_goal=TOTAL * 2e-6))
    assert result["stopped_because"].startswith("the unpruned model meets the budget")
    assert result["accepted"] == 0 and result["pruned"]["widths"] == result["baseline"]["widths"]


def test_knapsack_prunes_nothing_if_no_width_is_faster(tuned_dir, program_latency_by_flops, monkeypatch):
    monkeypatch.setattr(TaskTable, "by_layer", lambda table: {row.task.title: 1e-4 for row in table.rows})
    monkeypatch.setattr(knapsack, "widths_to_measure", first_and_last)
    result = run(tuned_dir, config("knapsack", speedup_goal=2.0))
    assert (
        result["stopped_because"] == "no widths are predicted to be faster than those of the unpruned model"
    )
    assert not result["iterations"]
