# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of pruning methods compute from their measurements."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import ROOT
from programs import FAST, table_of
from pruning import SHAPE, config, make_model
from torch import nn

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.loop.proposal import propose
from tvm.contrib.cprune.loop.run import AcceptedModel
from tvm.contrib.cprune.loop.state import LoopState
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.methods.cprune import CPrune
from tvm.contrib.cprune.models.macs import MacCounter
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import macs_and_params, widths
from tvm.contrib.cprune.types import Subgraph

sys.path.insert(0, str(ROOT / "benchmarks"))

import common
from ablation import path_of
from ablation_runs import OneSubgraph, Pruned, UntunedCompiler
from equal_macs import draw_variants, make_variant
from methods_report import Row, equal_accuracy_table, latency_over, table
from methods_rows import epochs_of
from models.resnet import resnet8
from motivation import loss_of_choice, rank_correlation
from new_search import (
    Cost,
    at_widths,
    cost_of_searches,
    cost_of_transplants,
    timed_candidates,
    widths_by_candidate,
)
from tutorial_runs import copy_start
from untrained import in_rounds, joined


def test_variants_have_equal_multiply_accumulates_and_different_widths():
    shape, model = (1, 3, 16, 16), resnet8(3, 10).eval()
    prunable, (total, _) = PrunableModel.trace(model, shape), macs_and_params(model, shape)
    variants = draw_variants(MacCounter.of(model, shape, prunable.groups()), 0.4, 6)
    macs = [macs_and_params(make_variant(variant, prunable), shape)[0] for variant in variants]
    assert macs == [variant.macs for variant in variants]
    assert max(macs) - min(macs) <= 0.01 * 0.4 * total
    assert max(abs(count - 0.4 * total) for count in macs) <= 0.005 * 0.4 * total
    assert len({json.dumps(variant.widths) for variant in variants}) == 6
    assert all(width % 8 == 0 for variant in variants for width in variant.widths.values())


def test_variants_that_cannot_exist_are_an_error():
    model = resnet8(3, 10).eval()
    counter = MacCounter.of(model, (1, 3, 16, 16), PrunableModel.trace(model, (1, 3, 16, 16)).groups())
    with pytest.raises(SystemExit, match=r"0 of 2 variants with 0\.0001"):
        draw_variants(counter, 1e-4, 2)


def test_rank_correlation_compares_orders_only():
    assert rank_correlation([1, 2, 3, 10], [0.1, 0.5, 0.7, 0.8]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 10], [4, 3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 * (1 + 1) / (4 * (16 - 1))
    assert rank_correlation([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(0.8)


def test_a_choice_loses_what_the_chosen_network_takes_longer():
    assert loss_of_choice([3, 1, 2], [10, 15, 12]) == 1.5
    assert loss_of_choice([1, 2, 3], [10, 15, 12]) == 1


def test_latency_at_a_level_is_interpolated():
    points = [(1.0, 8.0), (0.5, 4.0), (0.75, 7.0)]
    assert common.latency_at(0.625, points) == 5.5
    assert common.latency_at(0.5, points) == 4
    assert common.latency_at(0.4, points) == 4
    assert common.latency_at(1.1, points) is None


def test_rows_are_compared_with_own_methods_at_the_same_accuracy():
    def row(method, accuracy, tvm, onnx_runtime=1.0):
        return Row(method, "", 0.1, accuracy, tvm, 0.0, onnx_runtime, 0.0, 10.0, 1.0, 1, 1.0, 18.0)

    ours = [row("knapsack", 0.75, 4.0), row("knapsack", 0.5, 2.0)]
    others = [row("uniform", 0.625, 6.0, 9.0), row("uniform", 0.25, 1.0), row("global", 0.8, 8.0)]
    rows = [*ours, *others]
    assert latency_over(others[0], "tvm", "knapsack", rows) == 2
    assert latency_over(others[0], "onnx_runtime", "knapsack", rows) == 3
    # The fastest row of the method is more accurate.
    assert latency_over(others[1], "tvm", "knapsack", rows) == 0.5
    assert latency_over(others[2], "tvm", "knapsack", rows) is None
    *_, last = equal_accuracy_table(rows).splitlines()
    assert last == "| global |  | 0.8000 | -, - |"
    assert "| uniform |  | 0.6250 | 2.00, 3.00 |" in equal_accuracy_table(rows)
    assert len(table(rows).splitlines()) == 2 + len(rows)
    assert equal_accuracy_table(others) == ""


def test_epochs_of_a_run_are_those_of_candidates_and_of_the_pruned_network():
    result = {"short_term_batches": 5, "short_term_epochs": 1, "long_term_epochs": 4, "batch_size": 8}
    events: list[dict[str, object]] = [
        {"event": "baseline", "accuracy_val": 0.9},
        {"event": "candidate"},  # too slow, not trained
        {"event": "candidate", "accuracy_part": [0.1, 0.2]},
        {"event": "candidate", "accuracy_part": [0.8, 0.9], "accuracy_val": 0.85},
    ]
    assert epochs_of("cprune", result, events, images=80) == 2 * 0.5 + 4
    assert epochs_of("knapsack", result, events, images=80) == 4
    long = {"event": "candidate", "accuracy_val": 0.9, "accuracy_short_term": 0.8}
    whole = {**result, "short_term_batches": 0}
    assert epochs_of("progressive", whole, [*events, long], images=80) == 3 * 1 + 2 * 4


def test_latencies_of_accepted_candidates_follow_from_that_of_the_last_one():
    facts = (("baseline", False, 1.0, 1.0), ("candidate", True, 0.8, 1.25), ("candidate", False, 0.7, 9.0))
    last = ("candidate", True, 0.5, 2.0)
    names = ("event", "accepted", "accuracy_val", "speedup")
    events = [dict(zip(names, values, strict=True)) for values in (*facts, last)]
    assert path_of(Pruned({}, events, Path()), 3.0) == [(1.0, 6.0), (0.8, 4.8), (0.5, 3.0)]
    assert path_of(Pruned({}, events[:1], Path()), 3.0) == [(1.0, 3.0)]


def test_a_round_is_measured_once(tmp_path):
    path, numbers = tmp_path / "rounds.jsonl", iter(range(9))
    measure = lambda: {"a": [float(next(numbers))]}  # noqa: E731
    assert in_rounds(path, 2, measure) == [{"a": [0]}, {"a": [1]}]
    with path.open("a") as file:
        file.write('{"a": [')  # what a killed process leaves
    assert joined(in_rounds(path, 3, measure)) == {"a": [0, 1, 2]}
    assert in_rounds(path, 3, measure) == [{"a": [0]}, {"a": [1]}, {"a": [2]}]
    assert next(numbers) == 3


def test_a_run_starts_with_what_another_one_measured_before_its_candidates(tmp_path):
    trials = [{"search": 2, "transplant": n} for n in (0, 1, 2, 3)]
    kinds = ("baseline", "staircase", "staircase", "candidate")
    events = [{"event": kind, "trials": count} for kind, count in zip(kinds, trials, strict=True)]
    source, run = tmp_path / "source", tmp_path / "run"
    logs = {"search": "s1\ns2\n", "transplant": "t1\nt2\nt3\n"}
    for name, text in logs.items():
        write_text(source / "records" / "ansor" / f"{name}.json", text)
    write_text(source / "table_unpruned.json", "{}")
    write_text(source / "journal.jsonl", "".join(f"{json.dumps(event)}\n" for event in events))
    copy_start(source, run)
    assert [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()] == events[:3]
    assert (run / "records" / "ansor" / "search.json").read_text() == logs["search"]
    assert (run / "records" / "ansor" / "transplant.json").read_text() == "t1\nt2\n"
    assert (run / "table_unpruned.json").exists()


def candidate(trials, seconds, widths, accepted, timed=True):
    facts = {"latency_s": [1.0]} if timed else {}
    counts = {"search": 40, "transplant": trials}
    head = {"event": "candidate", "trials": counts, "seconds": seconds, "accepted": accepted}
    return {**head, "widths": {root: [64, width] for root, width in widths.items()}, **facts}


def test_candidates_have_their_own_trials_and_the_widths_accepted_before():
    events: list[dict[str, object]] = [
        {"event": "baseline", "trials": {"search": 40, "transplant": 2}},
        candidate(12, 5.0, {"a": 32, "b": 48}, True),
        candidate(15, 1.0, {"c": 8}, False, timed=False),
        candidate(16, 3.0, {"b": 16}, False),
        candidate(20, 4.0, {"c": 32}, True),
    ]
    timed = timed_candidates(events)
    assert [event["own_trials"] for event in timed] == [10, 1, 4]
    assert widths_by_candidate(timed) == [{"a": 32, "b": 48}, {"a": 32, "b": 16}, {"a": 32, "b": 48, "c": 32}]
    assert cost_of_transplants(timed[:2]) == Cost(2, 11, 8.0)


def test_costs_of_searches_are_extrapolated_by_candidates_and_by_tasks():
    events = [
        {"event": "ready", "work": {"search": 100.0, "build": 100.0}},
        {"event": "time", "work": {"search": 30.0}},
        {"event": "ready", "work": {"build": 100.0}},  # of the process that continues
        {
            "event": "searched",
            "work": {"search": 10.0, "build": 4.0},
            "tasks": 12,
            "keys": ["a"],
            "trials": 70,
        },
        {
            "event": "searched",
            "work": {"search": 20.0, "build": 2.0},
            "tasks": 12,
            "keys": ["b", "c"],
            "trials": 140,
        },
    ]
    changed = cost_of_searches(events, all_tasks=False)
    assert changed == Cost(2, 210, 66)
    # 24 tasks, of which 3 have changed.
    assert cost_of_searches(events, all_tasks=True) == Cost(2, 1680, 60 * 8 + 6)
    assert changed.extrapolated(10) == Cost(10, 1050, 330)


class Chain(nn.Sequential):
    """Four convolutions, of which ``1`` and ``2`` have the same shape."""

    def __init__(self) -> None:
        super().__init__(*(nn.Conv2d(a, b, 1) for a, b in ((8, 64), (64, 64), (64, 64), (64, 8))))


def test_one_subgraph_at_a_time_prunes_one_group_of_a_task():
    prunable = PrunableModel.trace(Chain(), SHAPE)
    (row,) = table_of({"1": (8, 1)}).rows
    task = replace(row.task, subgraphs=(*row.task.subgraphs, Subgraph("f#1", "nn.conv2d", ("2",), "direct")))
    table = replace(table_of({}), rows=(replace(row, task=task),))
    current = AcceptedModel(Candidate(prunable.model, None, table, Path()), prunable)
    journal = SimpleNamespace(state=lambda: LoopState(iteration=3))
    groups = {}
    for method in (CPrune(), OneSubgraph()):
        state = method.start(SimpleNamespace(journal=journal), current)
        assert state.iteration == 3
        proposal = propose(current, state, widths(prunable.model), config())
        groups[type(method)] = [step.group.root for step in proposal.steps]
    assert groups == {CPrune: ["1", "2"], OneSubgraph: ["1"]}


def test_an_untuned_compiler_measures_one_program_per_task(tmp_path):
    settings = config(tune=replace(FAST, tuner="autotvm"))
    model, data = make_model(), sample_input(SHAPE)
    with UntunedCompiler(settings, SHAPE, tmp_path) as compiler:
        base = compiler.tune(model)
        # TVM has two templates for the linear layer.
        assert compiler.programs.trials() == {"search": 5, "transplant": 0}
        assert len(base.table.rows) == 4
        smaller = at_widths(PrunableModel.trace(model, SHAPE), {"a": 32})
        moved = compiler.move(base, smaller)
        # The layers ``a`` and ``b`` have changed.
        assert compiler.programs.trials() == {"search": 7, "transplant": 0}
        expected = smaller(torch.from_numpy(data)).detach().numpy()
        np.testing.assert_allclose(compiler.measurer.run_model(moved.library, data)[0], expected, atol=1e-5)
