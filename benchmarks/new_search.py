# SPDX-License-Identifier: Apache-2.0
"""A new search for the programs of a run's candidates, as in the original CPrune, for ``ablation.py``.

The original searches every task of every candidate again, with 70 trials per task. Here only the tasks that
the candidate changed are searched, which is all that a careful implementation needs.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ablation_runs import JOURNAL, after_first_tuning, fork, journaled
from tvm.contrib.cprune.building.build import algorithms_of
from tvm.contrib.cprune.compiler import Candidate, Compiler, Unbuilt
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.lock import locked
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.tuning.ansor.search import search
from tvm.contrib.cprune.tuning.progress import Progress
from tvm.contrib.cprune.types import ChannelStep

READY, SEARCHED = "ready", "searched"


@dataclass(frozen=True)
class Cost:
    """Trials and seconds of some candidates."""

    candidates: int
    trials: float
    seconds: float

    def extrapolated(self, candidates: int) -> "Cost":
        """Return the cost of another number of candidates that cost the same on average."""
        factor = candidates / self.candidates
        return Cost(candidates, self.trials * factor, self.seconds * factor)


def timed_candidates(events: Sequence[Event]) -> list[Event]:
    """Return the candidates that were compiled and timed, with the trials of each as ``own_trials``."""
    found, before = [], 0
    for event in events:
        if event["event"] == "baseline":
            before = sum(event["trials"].values())
        if event["event"] == "candidate":
            total = sum(event["trials"].values())
            if "latency_s" in event:
                found.append({**event, "own_trials": total - before})
            before = total
    return found


def widths_by_candidate(candidates: Sequence[Event]) -> list[dict[str, int]]:
    """Return the widths of each candidate: those of the accepted ones before it, and its own."""
    accepted, widths = dict[str, int](), []
    for event in candidates:
        own = accepted | {root: width for root, (_, width) in event["widths"].items()}
        widths.append(own)
        accepted = own if event["accepted"] else accepted
    return widths


def cost_of_transplants(candidates: Sequence[Event]) -> Cost:
    """Return what candidates cost whose programs were transplanted."""
    trials, seconds = (sum(event[key] for event in candidates) for key in ("own_trials", "seconds"))
    return Cost(len(candidates), trials, seconds)


def cost_of_searches(events: Sequence[Event], all_tasks: bool) -> Cost:
    """Return what candidates cost whose programs were searched.

    Parameters
    ----------
    events
        The events after the first tuning.
    all_tasks
        Whether all tasks are searched, as the original does: the trials and the time of the search are
        multiplied by the number of tasks over that of the changed ones.
    """
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        for work, value in event["work"].items():
            # Before it is ready, a process restores the first tuning.
            seconds[work] += value if event["event"] != READY else 0
    searched = [event for event in events if event["event"] == SEARCHED]
    changed = sum(len(event["keys"]) for event in searched)
    factor = sum(event["tasks"] for event in searched) / changed if all_tasks else 1.0
    rest = sum(value for work, value in seconds.items() if work != "search")
    trials = sum(event["trials"] for event in searched)
    return Cost(len(searched), trials * factor, rest + seconds["search"] * factor)


def at_widths(prunable: PrunableModel, widths: dict[str, int]) -> nn.Module:
    """Return the network with some groups of channels pruned to other widths."""
    groups = {group.root: group for group in prunable.groups().groups}
    steps = [ChannelStep(groups[root], width, "") for root, width in widths.items()]
    return prunable.shrink(steps, lambda group: score(group, "l1", 0)).model


def transplanted(
    model: nn.Module, shape: tuple[int, ...], config: PruneConfig, widths: dict[str, int], run: Path
) -> Path:
    """Compile a candidate of a finished run again, with the programs that the run measured."""
    path = run / "transplanted.so"
    if not path.exists():
        with locked(run), Compiler(config, shape, run) as compiler:
            baseline = Journal(run / JOURNAL).last("baseline")
            base = compiler.tune(model, baseline["algorithms"])
            candidate = compiler.move(base, at_widths(PrunableModel.trace(model, shape), widths))
            with replaced(path) as aside:
                shutil.move(candidate.library, aside)
    return path


def search_candidates(
    model: nn.Module,
    shape: tuple[int, ...],
    config: PruneConfig,
    widths: Sequence[dict[str, int]],
    source: Path,
    folder: Path,
) -> tuple[list[Event], Path]:
    """Search new programs for the changed tasks of each candidate, or continue an interrupted search.

    Parameters
    ----------
    config
        Its trials per task are those of each search.
    widths
        The widths of each candidate.
    source
        Folder of the first tuning.

    Returns
    -------
    The events after the first tuning, and the compiled last candidate.
    """
    fork(source, folder)
    library = folder / "searched.so"
    with locked(folder), ConsoleReport() as console:
        journal = Journal(folder / JOURNAL)
        done = sum(event["event"] == SEARCHED for event in journal.events)
        if done < len(widths):
            report = journaled(journal, console)
            with Compiler(config, shape, folder, None, report, stopwatch=journal.stopwatch) as compiler:
                base = compiler.tune(model, journal.last("baseline")["algorithms"])
                prunable = PrunableModel.trace(model, shape)
                journal.append({"event": READY})
                for own in widths[done:]:
                    made, event = _search(compiler, base, at_widths(prunable, own), journal, report)
                    with replaced(library) as aside:
                        shutil.copy(made.library, aside)
                    journal.append(event)
    return after_first_tuning(journal.events), library


def _search(
    compiler: Compiler,
    base: Candidate,
    model: nn.Module,
    journal: Journal,
    report: Callable[[Event], None],
) -> tuple[Candidate, Event]:
    """Search the tasks of a candidate that neither the base nor an earlier candidate has, and compile it."""

    def show(progress: Progress) -> None:
        report({"event": "progress", "progress": progress})

    config, log = compiler.config, compiler.programs.searched
    known = {row.task.workload_key for row in base.table.rows}
    known.update(key for event in journal.events for key in event.get("keys", ()))
    relay_model = compiler.import_model(model)
    tasks = compiler.tuner.extract(relay_model, algorithms_of(base.table))
    new = [task for task in tasks if task.workload_key not in known]
    with journal.stopwatch("search"):
        search(new, config.tune, compiler.measurer, log, config.seed, show)
    table = compiler.tuner.fastest(relay_model, base.table)
    candidate = compiler.build(Unbuilt(model, relay_model, table))
    compiler.time({"old": base, "new": candidate})
    keys = [task.workload_key for task in new]
    trials = sum(len(log.of(key)) for key in keys)
    return candidate, {"event": SEARCHED, "keys": keys, "tasks": len(tasks), "trials": trials}
