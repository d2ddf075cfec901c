# SPDX-License-Identifier: Apache-2.0
"""A program for every task of a model: by a search for the first one, by transplants for pruned ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import tvm
from tvm.contrib.cprune.algorithm_choice import fastest_templates, winograd_layers
from tvm.contrib.cprune.building.build import algorithms_of
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.lagging import lagging_rows
from tvm.contrib.cprune.library_start import measure_donors, reaches, with_trials
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import faster
from tvm.contrib.cprune.program_library import ProgramLibrary
from tvm.contrib.cprune.program_store import ProgramStore
from tvm.contrib.cprune.stopwatch import Stopwatch
from tvm.contrib.cprune.table import Row, TaskTable, make_table
from tvm.contrib.cprune.tasks import LoweringCache, alternative_tasks, extract_from_program
from tvm.contrib.cprune.transform.pin_algorithms import winograd_algorithms
from tvm.contrib.cprune.tuning.backends import BACKENDS
from tvm.contrib.cprune.types import Algorithm, CPruneError, RelayModel, Task


class TaskTuner:
    """Makes task tables of Relay models for one target.

    Parameters
    ----------
    programs
        Every program measured so far; searches and transplants add to it.
    library
        Programs of other networks that the first search starts from; it receives those of this network.
    report
        Receives the progress of searches as ``{"event": "progress", "progress": Progress}``.
    strict
        Whether a task without a valid program is an error; otherwise it is left out of the table.
    """

    def __init__(
        self,
        config: PruneConfig,
        target: tvm.target.Target,
        measurer: Measurer,
        programs: ProgramStore,
        library: ProgramLibrary,
        stopwatch: Stopwatch,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        strict: bool = True,
    ) -> None:
        self._config, self._target, self._measurer = config, target, measurer
        self._programs, self._library, self._stopwatch = programs, library, stopwatch
        self._progress = lambda progress: report({"event": "progress", "progress": progress})
        self._say = lambda message: report({"event": "library", "message": message})
        self._backend, self._strict = BACKENDS[config.tune.tuner], strict
        self._searched: TaskTable | None = None
        self._lowered = LoweringCache()

    def extract(self, model: RelayModel, algorithms: Mapping[str, Algorithm]) -> tuple[Task, ...]:
        """Return the tasks of a model whose layers use ``algorithms`` (see ``extract_from_program``)."""
        tuner = self._config.tune.tuner
        with self._stopwatch("import"):
            return extract_from_program(model.mod, None, self._target, algorithms, self._lowered, tuner)

    def search(self, model: RelayModel, algorithms: Mapping[str, Algorithm] | None = None) -> TaskTable:
        """Return the table of a model after a search.

        Parameters
        ----------
        algorithms
            Each layer's algorithm, as an earlier search chose it: nothing is searched then. By default each
            convolution gets the algorithm whose program is faster.
        """
        with self._stopwatch("search"):
            if algorithms is None:
                algorithms = self._fastest_algorithms(model, self._first_search)
        self._searched = self._table(self.extract(model, algorithms))
        return self._searched

    def search_again(self, model: RelayModel, table: TaskTable, trials: int) -> TaskTable:
        """Return the table of a model after a search that starts from its measured programs.

        Transplants stay if no new program is faster. The algorithms of layers can change, but those that are
        Winograd convolutions keep their tile size if they remain such.

        Parameters
        ----------
        table
            The model's table before the search.
        trials
            Average number of trials per task, including those of earlier searches.
        """
        tune = replace(self._config.tune, trials=trials)
        # A search that finds no valid program is no error: the layers have one.
        search = partial(self._search, tune=tune, strict=False)
        algorithms = self._fastest_algorithms(model, search, algorithms_of(table))
        return self._table(self.extract(model, algorithms))

    def transplant(self, model: RelayModel, donor: TaskTable, improve: bool = True) -> TaskTable:
        """Return the table of a model with the programs of ``donor``, moved to the model's widths.

        Only tasks without a measured program are measured. A search runs only where no transplant is legal,
        or, with ``improve``, where those of a costly task are much slower than its work predicts.

        Raises
        ------
        CPruneError
            If a task has no valid program at its width.
        """
        tasks = self.extract(model, algorithms_of(donor))
        with self._stopwatch("transplant"):
            missing = [task for task in tasks if self._programs.best(task.workload_key) is None]
            missing = [t for t in missing if not self._programs.move(t, donor, self._config.variants)]
        if missing:
            self._search(missing, replace(self._config.tune, trials=self._config.tune.batch))
        table = self._table(tasks)
        return self._improve(model, donor, table) if improve else table

    def fastest(self, model: RelayModel, table: TaskTable) -> TaskTable:
        """Return the table of a model with the algorithms of ``table`` and the fastest measured programs."""
        return self._table(self.extract(model, algorithms_of(table)))

    def _improve(self, model: RelayModel, donor: TaskTable, table: TaskTable) -> TaskTable:
        """Return a table with better programs for the tasks whose transplants lag behind.

        Such a task tries the programs of other tasks with the same structure, its other algorithm, and then a
        short search. What was tried is in the records, and is not tried again.
        """
        reference = self._searched or donor
        lagging = lagging_rows(table, reference)
        if not lagging:
            return table
        with self._stopwatch("transplant"):
            for row in lagging:
                self._programs.borrow(row.task, donor)
        algorithms = algorithms_of(table)
        if self._config.tune.tuner == "ansor":
            algorithms = self._faster_algorithms(model, donor, lagging, algorithms)
        table = self._table(self.extract(model, algorithms))
        self._short_search([row.task for row in lagging_rows(table, reference)])
        return self._table(self.extract(model, algorithms))

    def _faster_algorithms(
        self,
        model: RelayModel,
        donor: TaskTable,
        rows: Sequence[Row],
        algorithms: Mapping[str, Algorithm],
    ) -> dict[str, Algorithm]:
        """Return ``algorithms`` with those of lagging layers changed where the other one is faster."""
        legal, chosen = winograd_algorithms(model.mod), dict(algorithms)
        for row in rows:
            layers = [layer for layer in row.task.layers if layer in legal]
            if not layers or set(layers) != set(row.task.layers):
                continue
            other: dict[str, Algorithm] = {k: v for k, v in chosen.items() if k not in layers}
            if row.task.subgraphs[0].algorithm == "direct":
                other |= {layer: legal[layer] for layer in layers}
            tasks = [task for task in self.extract(model, other) if set(task.layers) & set(layers)]
            with self._stopwatch("transplant"):
                for task in tasks:
                    self._programs.borrow(task, donor)
            self._short_search(tasks)
            old = self._programs.best(row.task.workload_key)
            new = [self._programs.best(task.workload_key) for task in tasks]
            if new and all(program is not None and faster(old, program) is program for program in new):
                chosen = other
        return chosen

    def _short_search(self, tasks: Sequence[Task]) -> None:
        """Search one batch of programs for each task that was not searched yet.

        A search without a valid program is no error: the layers already have a slower one.
        """
        new = [task for task in tasks if not self._programs.searched.of(task.workload_key)]
        if new:
            self._search(new, replace(self._config.tune, trials=self._config.tune.batch), strict=False)

    def _fastest_algorithms(
        self, model: RelayModel, search: Callable[..., None], present: Mapping[str, Algorithm] | None = None
    ) -> dict[str, Algorithm]:
        """Return the algorithms of a model's layers whose programs are the fastest after ``search``."""
        if self._config.tune.tuner == "ansor":
            return self._search_both(model, search, present or {})
        return self._search_templates(model, search)

    def _search_templates(self, model: RelayModel, search: Callable[..., None]) -> dict[str, Algorithm]:
        """Search every AutoTVM template of every layer; return each layer's fastest."""
        tasks = self.extract(model, {})
        search(tasks)
        return fastest_templates(self._table(tasks, strict=False).rows)

    def _search_both(
        self, model: RelayModel, search: Callable[..., None], present: Mapping[str, Algorithm]
    ) -> dict[str, Algorithm]:
        """Search direct and Winograd programs; return the layers for which Winograd is faster."""
        direct = self.extract(model, {})
        # The best tile size depends on the width, but there are programs for the present one.
        legal = {**winograd_algorithms(model.mod), **present}
        winograd = self.extract(model, legal)
        tasks = list({task.workload_key: task for task in (*direct, *winograd)}.values())
        search(tasks, alternatives=alternative_tasks(direct, winograd))
        return winograd_layers(direct, winograd, legal, self._programs.best)

    def _first_search(self, tasks: Sequence[Task], **options: Any) -> None:
        """Search until the tasks are as fast as their donors, and add the programs to the library."""
        tune, searched, started = self._config.tune, self._programs.searched, time.monotonic()
        self._programs.seed(tasks, tune.batch)
        goals = self._measure_library(tasks, _remaining(tune, started), options.get("alternatives", {}))
        self._search(tasks, _remaining(tune, started), goals=goals, **options)
        rows = self._table(tasks, strict=False).rows
        # Tasks with a goal have tried the programs of others, unless little is left to gain.
        without = [row for row in rows if not goals.get(row.task.workload_key)]
        self._programs.share(rows, without, tune.batch)
        finished = with_trials(self._table(tasks, strict=False).rows, goals, searched, tune.trials)
        try:
            self._library.add(finished)
        except (CPruneError, OSError) as error:
            self._say(f"the program library was not updated: {error}")

    def _measure_library(
        self, tasks: Sequence[Task], tune: TuneConfig, alternatives: Mapping[str, str]
    ) -> dict[str, float]:
        """Measure programs of the library; return the latency that each task can reach, in seconds."""
        try:
            library = self._library.rows()
        except (CPruneError, OSError) as error:
            self._say(f"the program library is not used: {error}")
            return {}
        log, move = self._programs.searched, self._backend.transplant
        goals = measure_donors(tasks, library, move, self._measurer, log, tune, alternatives)
        count = sum(reaches(row, goals) for row in self._table(tasks, strict=False).rows)
        if count:
            self._say(f"{count} of {len(tasks)} tasks need no search: programs of the library suit them")
        return goals

    def _table(self, tasks: Sequence[Task], strict: bool | None = None) -> TaskTable:
        strict = self._strict if strict is None else strict
        cold = self._config.tune.cold_weights
        return make_table(tasks, self._programs.best, str(self._target), self._measurer.threads, cold, strict)

    def _search(self, tasks: Sequence[Task], tune: TuneConfig, **options: Any) -> None:
        if not tasks:
            raise CPruneError("the model has no task to tune: expected convolutions or dense layers")
        log, seed, report = self._programs.searched, self._config.seed, self._progress
        options = {"strict": self._strict, "known": self._programs.known(), **options}
        with self._stopwatch("search"):
            self._backend.search(list(tasks), tune, self._measurer, log, seed, report, **options)


def _remaining(tune: TuneConfig, started: float) -> TuneConfig:
    """Return settings with the rest of the time limit, at least a second; 0 means no limit."""
    left = tune.max_seconds and max(1.0, tune.max_seconds - (time.monotonic() - started))
    return replace(tune, max_seconds=left)
