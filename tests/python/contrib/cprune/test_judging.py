# SPDX-License-Identifier: Apache-2.0
"""How far a candidate is trained and evaluated before it is accepted or rejected."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pruning import SHAPE, config, make_model, time_by_macs

from tvm.contrib.cprune import pruner as pruner_module
from tvm.contrib.cprune.compiler import Compiler, Unbuilt
from tvm.contrib.cprune.loop import journal as journal_module
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.types import CPruneError

UNPRUNED = sum(value.numel() for value in make_model().parameters())
# The validation split has 10,000 images, the part 1,000.
SIZE, PART = 10_000, 1_000


def is_unpruned(model: torch.nn.Module) -> bool:
    return sum(value.numel() for value in model.parameters()) == UNPRUNED


def is_trained(model: torch.nn.Module) -> bool:
    return getattr(model, "trained", False)


class FakeTraining:
    """Functions that log their calls; the unpruned model has the accuracy 0.9.

    Parameters
    ----------
    untrained, part, whole
        A candidate's accuracy before the training, and after it on the part and on the whole split.
    interrupted
        The call, by number, during which the process ends.
    """

    def __init__(self, untrained: float, part: float, whole: float, interrupted: int | None = None) -> None:
        self.accuracies = {"untrained": untrained, "part": part, "whole": whole}
        self.calls: list[str] = []
        self.random: list[float] = []
        self.interrupted = interrupted

    def log(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) - 1 == self.interrupted:
            raise KeyboardInterrupt

    def recalibrate(self, model: torch.nn.Module) -> None:
        model.trained = False  # type: ignore[assignment]
        self.log("recalibrate")
        self.random.append(torch.rand(1).item())

    def short_term(self, model: torch.nn.Module) -> None:
        self.log("train")
        self.random.append(torch.rand(1).item())
        model.trained = True  # type: ignore[assignment]

    def evaluate_part(self, model: torch.nn.Module) -> tuple[int, int]:
        if is_unpruned(model):
            return PART * 9 // 10, PART
        self.log("part")
        return round(self.accuracies["part" if is_trained(model) else "untrained"] * PART), PART

    def evaluate(self, model: torch.nn.Module) -> float:
        if is_unpruned(model):
            return 0.9
        self.log("whole")
        return self.accuracies["whole" if is_trained(model) else "untrained"]

    def functions(self, **changes) -> Training:
        every = Training(
            self.short_term,
            self.evaluate,
            recalibrate=self.recalibrate,
            evaluate_part=self.evaluate_part,
            validation_size=SIZE,
        )
        return replace(every, **changes)


@pytest.fixture
def prune(tuned_dir, monkeypatch):
    """Return a function that runs the pruning loop without compiling anything, and returns its candidates."""
    monkeypatch.setattr(Compiler, "time", time_by_macs)
    monkeypatch.setattr(
        Compiler, "transplant", lambda _, current, model: Unbuilt(model, current.relay, current.table)
    )
    monkeypatch.setattr(Compiler, "_build", lambda *_: tuned_dir / "none.so")
    monkeypatch.setattr(pruner_module, "finish", lambda *_: {})

    def run(training: Training, folder=tuned_dir, resume=False, **settings) -> list[dict]:
        arguments = {"accuracy_requirement": 0.8, "alpha": 0.95, "max_iterations": 1, **settings}
        CPruner(make_model(), SHAPE, training, config(**arguments), folder).run(resume=resume)
        events = Journal(folder / "journal.jsonl").events
        return [event for event in events if event["event"] == "candidate"]

    return run


# Accuracies (before the training, after it on the part, on the whole split); calls; verdict; part of the
# reason; the accuracy in the journal. The limits are 0.8 and 0.95 * 0.9 = 0.855, and 0.25 * 0.8 = 0.2.
CASES = {
    "hopeless": ((0.15, 0.89, 0.89), "recalibrate part", "accuracy", "not trained", None),
    "perhaps hopeless": ((0.18, 0.89, 0.89), "recalibrate part train part whole", "accepted", "0.89", 0.89),
    "the part decides": ((0.6, 0.75, 0.89), "recalibrate part train part", "accuracy", "requirement", None),
    "the part of one step decides": (
        (0.6, 0.82, 0.89),
        "recalibrate part train part",
        "accuracy",
        "x the last accepted",
        None,
    ),
    "the part is not sure": (
        (0.6, 0.85, 0.854),
        "recalibrate part train part whole",
        "accuracy",
        "accuracy 0.8540 is below 0.95 x",
        0.854,
    ),
    "the part was unlucky": (
        (0.6, 0.85, 0.856),
        "recalibrate part train part whole",
        "accepted",
        "accuracy 0.8560 is sufficient",
        0.856,
    ),
    "clearly accurate": (
        (0.6, 0.95, 0.9312),
        "recalibrate part train part whole",
        "accepted",
        "accuracy 0.9312 is sufficient",
        0.9312,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_candidate_is_judged_no_further_than_necessary(name, prune):
    accuracies, calls, verdict, reason, journaled = CASES[name]
    fake = FakeTraining(*accuracies)
    (event,) = prune(fake.functions())
    assert fake.calls == calls.split()
    assert (event["verdict"], event["accepted"]) == (verdict, verdict == "accepted")
    assert reason in event["reason"]
    assert event.get("accuracy_val") == journaled
    low, high = event["accuracy_untrained"]
    assert low < accuracies[0] < high
    assert ("accuracy_part" in event) == ("train" in fake.calls)
    # The training starts with the same random state, whatever precedes it.
    assert len(set(fake.random)) == 1


def decisions(candidates: list[dict]) -> list[dict]:
    """Return events without what differs between two runs."""
    return [{k: v for k, v in event.items() if k not in ("seconds", "work")} for event in candidates]


def copy_baseline(run: Path, folder: Path) -> Path:
    """Copy the folder of a run without what follows the baseline.

    A new baseline could have other programs: which one is the fastest depends on the machine.
    """
    shutil.copytree(run / "records", folder / "records")
    shutil.copy(run / "table_unpruned.json", folder)
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (number,) = (n for n, line in enumerate(lines) if json.loads(line)["event"] == "baseline")
    (folder / "journal.jsonl").write_text("".join(lines[: number + 1]))
    return folder


@pytest.mark.parametrize("name", ["hopeless", "the part decides", "the part is not sure", "clearly accurate"])
def test_an_interrupted_run_continues_as_if_it_were_not(name, prune, tuned_dir, tmp_path):
    accuracies = CASES[name][0]
    straight = FakeTraining(*accuracies)
    expected = decisions(prune(straight.functions(), max_iterations=2))
    assert len(expected) == 2
    first = len(straight.calls) // 2
    # In the last call for the first candidate, and in the first call for the second one.
    for number in (first - 1, first):
        folder = copy_baseline(tuned_dir, tmp_path / f"interrupted-{number}")
        with pytest.raises(KeyboardInterrupt):
            prune(FakeTraining(*accuracies, number).functions(), folder, True, max_iterations=2)
        lost = Journal(folder / "journal.jsonl").last("interrupted")
        assert lost is not None and sum(lost["work"].values()) > 0
        resumed = FakeTraining(*accuracies)
        assert decisions(prune(resumed.functions(), folder, True, max_iterations=2)) == expected
        repeated = straight.calls if number < first else straight.calls[first:]
        assert resumed.calls == repeated
        assert resumed.random == straight.random[-len(resumed.random) :] != []


@pytest.mark.parametrize(
    ("changes", "settings", "calls"),
    [
        ({"evaluate_part": None}, {}, "recalibrate whole"),
        ({"recalibrate": None}, {}, "train part whole"),
        ({"recalibrate": None}, {"hopeless": 0.25}, "part"),
        ({}, {"hopeless": 0.0}, "recalibrate train part whole"),
        ({}, {"accuracy_requirement": 0.0}, "recalibrate train part whole"),
        ({}, {"step_rule": "paper"}, "recalibrate train whole"),
        ({}, {"step_rule": "paper", "hopeless": 0.25}, "recalibrate part"),
    ],
)
def test_settings_decide_whether_a_hopeless_candidate_is_trained(changes, settings, calls, prune):
    fake = FakeTraining(0.1, 0.89, 0.89)
    (event,) = prune(fake.functions(**changes), **settings)
    assert fake.calls == calls.split()
    assert event["accepted"] == ("train" in calls)


def test_a_hopeless_candidate_is_followed_by_a_smaller_one(prune, tuned_dir):
    (event,) = prune(FakeTraining(0.1, 0.89, 0.89).functions())
    ((root, (_, width)),) = event["widths"].items()
    state = Journal(tuned_dir / "journal.jsonl").state()
    assert (state.limits, state.dropped, state.accuracy) == ({root: width}, frozenset(), 0.9)


def test_wrong_counts_are_reported_before_anything_is_tuned(tmp_path):
    wrong = FakeTraining(0.6, 0.89, 0.89).functions(validation_size=PART - 1)
    with pytest.raises(CPruneError, match="read 1000 images of a validation split of 999"):
        CPruner(make_model(), SHAPE, wrong, config(), tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_training_and_evaluation_are_timed(prune, tuned_dir):
    fake = FakeTraining(0.6, 0.89, 0.89)

    def evaluate(model: torch.nn.Module) -> float:
        time.sleep(0.1)
        return fake.evaluate(model)

    def short_term(model: torch.nn.Module) -> None:
        time.sleep(0.2)

    functions = {"short_term": short_term, "evaluate": evaluate, "evaluate_part": None, "recalibrate": None}
    started = time.monotonic()
    (event,) = prune(fake.functions(**functions))
    elapsed = time.monotonic() - started
    assert 0.2 <= event["work"]["train"] < 0.2 + event["seconds"]
    assert 0.1 <= event["work"]["evaluate"] < event["seconds"]
    total = sum(Journal(tuned_dir / "journal.jsonl").seconds_by_work().values())
    assert total == pytest.approx(elapsed, abs=0.5)


def test_the_time_of_a_training_is_written_down_while_it_runs(prune, tuned_dir, monkeypatch):
    monkeypatch.setattr(journal_module, "TIME_INTERVAL", 0)
    events = []

    def short_term(model: torch.nn.Module) -> None:
        time.sleep(0.2)
        pruner.receive({"event": "progress"})
        events.extend(Journal(tuned_dir / "journal.jsonl").events)
        raise KeyboardInterrupt

    training = FakeTraining(0.6, 0.89, 0.89).functions(short_term=short_term)
    pruner = CPruner(make_model(), SHAPE, training, config(max_iterations=1), tuned_dir, report=print)
    with pytest.raises(KeyboardInterrupt):
        pruner.run()
    assert events[-1]["event"] == "time"
    assert events[-1]["work"]["train"] >= 0.2
