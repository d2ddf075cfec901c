# SPDX-License-Identifier: Apache-2.0
"""Variants of CPrune without data that start from the same first tuning, for ``ablation.py``.

The share of the multiply-accumulates that a candidate keeps takes the place of its accuracy.
"""

import argparse
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from tvm.contrib.cprune.compiler import Candidate, Compiler, Unbuilt
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.loop.baseline import tune_baseline
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.lock import locked
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.state import Event, LoopState
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.methods.cprune import CPrune
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import macs_and_params
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.table import Row, TaskTable, make_table
from tvm.contrib.cprune.tuning.autotvm.search import search
from tvm.contrib.cprune.types import RelayModel

JOURNAL, UNPRUNED = "journal.jsonl", "unpruned"
# The variant that the others are compared with.
FULL = "cprune"
HARD_STEPS = {"retry_smaller": False, "partial_fit": False, "larger_steps": False}


class OneSubgraph(CPrune):
    """Prunes the channels of one subgraph per candidate instead of those of all subgraphs of a task."""

    def start(self, run: Run, baseline: AcceptedModel) -> LoopState:
        roots = frozenset(group.root for group in baseline.prunable.groups().groups)
        return replace(super().start(run, baseline), separated=roots)


class UntunedCompiler(Compiler):
    """Compiles every model with the schedules that TVM uses without tuning."""

    def tune(self, model: nn.Module, algorithms: Mapping[str, str] | None = None) -> Candidate:
        return self.build(self._untuned(model))

    def transplant(self, current: Candidate, model: nn.Module) -> Unbuilt:
        return self._untuned(model)

    def _untuned(self, model: nn.Module) -> Unbuilt:
        relay_model = self.import_model(model)
        by_layer: dict[str, Row] = {}
        for row in sorted(self._table(relay_model, {}).rows, key=lambda row: row.speed):
            by_layer |= dict.fromkeys(row.task.layers, row)
        templates = {layer: str(row.task.subgraphs[0].algorithm) for layer, row in by_layer.items()}
        return Unbuilt(model, relay_model, self._table(relay_model, templates))

    def _table(self, model: RelayModel, templates: Mapping[str, str]) -> TaskTable:
        """Return the table of a model with TVM's fallback configurations."""
        tasks, tune, log = self.tuner.extract(model, templates), self.config.tune, self.programs.searched
        # Of a task that has reached its goal, only the fallback configuration is measured.
        goals = {task.workload_key: math.inf for task in tasks}
        search(tasks, tune, self.measurer, log, strict=False, goals=goals)
        where = (str(self.target), self.measurer.threads, tune.cold_weights)
        return make_table(tasks, self.programs.best, *where, strict=False)


class WithoutTuning(CPrune):
    """Decides by the structure and the latency of untuned programs; only the pruned network is tuned."""

    def prune(self, run: Run, baseline: AcceptedModel) -> tuple[Candidate, str]:
        config = replace(run.config, tune=replace(run.config.tune, tuner="autotvm"))
        folder, stopwatch = run.folder / "untuned", run.journal.stopwatch
        with UntunedCompiler(config, run.input_shape, folder, stopwatch=stopwatch) as compiler:
            start = AcceptedModel(compiler.tune(run.model), baseline.prunable)
            pruned, stop = super().prune(replace(run, compiler=compiler, config=config), start)
            if run.journal.last("untuned") is None:
                trials = sum(compiler.programs.trials().values())
                run.journal.append({"event": "untuned", "trials": trials})
        return run.compiler.tune(pruned.model), stop


class Variant(NamedTuple):
    """A variant of CPrune: its name, its method, and its settings."""

    name: str
    method: CPrune
    settings: dict[str, Any]


VARIANTS = (
    Variant(FULL, CPrune(), {}),
    Variant("one subgraph", OneSubgraph(), {}),
    Variant("untuned", WithoutTuning(), {}),
    Variant("joint", CPrune(), HARD_STEPS),
    Variant("paper", CPrune(), {"step_rule": "paper"}),
)


class Pruned(NamedTuple):
    """A finished run.

    Attributes
    ----------
    result
        The contents of ``result.json``.
    events
        The events of its journal that follow the first tuning.
    library
        The compiled model.
    """

    result: dict[str, Any]
    events: list[Event]
    library: Path

    @property
    def trials(self) -> int:
        """Programs measured after the first tuning, with those of untuned programs."""
        untuned = [event["trials"] for event in self.events if event["event"] == "untuned"]
        return sum([*self.result["trials"]["pruning_and_final_tuning"].values(), *untuned])

    @property
    def seconds(self) -> float:
        """Seconds from the first tuning to the pruned, tuned model."""
        last = [event["event"] for event in self.events].index("final_training")
        return sum(sum(event["work"].values()) for event in self.events[: last + 1])


def settings_of(args: argparse.Namespace, library: Path, **settings: Any) -> PruneConfig:
    """Return the settings of a run."""
    tune = TuneConfig(trials=args.trials, library=str(library))
    limits = {"accuracy_requirement": args.macs, "alpha": 1e-6, "max_iterations": args.candidates}
    return PruneConfig(**limits, tune=tune, **settings)


def share_training(model: nn.Module, shape: tuple[int, ...]) -> Training:
    """Return a training that trains nothing; the accuracy is the share of the multiply-accumulates."""
    total, _ = macs_and_params(model, shape)
    return Training(lambda _: None, lambda candidate: macs_and_params(candidate, shape)[0] / total)


def journaled(journal: Journal, console: ConsoleReport) -> Callable[[Event], None]:
    """Return a report that also writes down the time of long searches."""

    def report(event: Event) -> None:
        if event["event"] == "progress":
            journal.append_time()
        console(event)

    return report


def tune_first(model: nn.Module, shape: tuple[int, ...], config: PruneConfig, folder: Path) -> None:
    """Tune the unpruned network, unless an earlier call did: all runs continue from here."""
    with locked(folder), ConsoleReport() as console:
        if (folder / f"{UNPRUNED}.so").exists():
            return
        journal = Journal(folder / JOURNAL)
        report, prunable = journaled(journal, console), PrunableModel.trace(model, shape)
        with Compiler(config, shape, folder, None, report, stopwatch=journal.stopwatch) as compiler:
            training = share_training(model, shape)
            run = Run(model, shape, training, config, compiler, journal, folder, {}, report)
            baseline = tune_baseline(run, 1.0, prunable)
            with replaced(folder / f"{UNPRUNED}.so") as aside:
                shutil.copy(baseline.candidate.library, aside)


def fork(source: Path, folder: Path) -> None:
    """Copy the records and the journal of the first tuning to a new run, which continues from there."""
    if not (folder / JOURNAL).exists():
        shutil.copytree(source / "records", folder / "records", dirs_exist_ok=True)
        write_text(folder / JOURNAL, (source / JOURNAL).read_text())


def after_first_tuning(events: list[Event]) -> list[Event]:
    """Return the events of a journal that follow the first tuning."""
    return events[[event["event"] for event in events].index("baseline") + 1 :]


def prune(
    variant: Variant,
    model: nn.Module,
    shape: tuple[int, ...],
    config: PruneConfig,
    source: Path,
    folder: Path,
) -> Pruned:
    """Prune the network by a variant, or continue an interrupted run."""
    fork(source, folder)
    with ConsoleReport() as report:
        training, labels = share_training(model, shape), {"variant": variant.name}
        pruner = CPruner(model, shape, training, config, folder, labels=labels, report=report)
        pruner.method = variant.method
        result = pruner.run(resume=True)
    return Pruned(result, after_first_tuning(Journal(folder / JOURNAL).events), folder / "net.so")
