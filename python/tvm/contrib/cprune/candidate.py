# SPDX-License-Identifier: Apache-2.0
"""From a model to a compiled one with its task table: by search for the first, by transplanting for all
others."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune import measure
from tvm.contrib.cprune.algorithms import winograd_layers
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.device import pinned_target
from tvm.contrib.cprune.extract import LoweringCache, extract_from_program
from tvm.contrib.cprune.frontend import from_torch
from tvm.contrib.cprune.objects import ObjectCache
from tvm.contrib.cprune.presets import find_preset
from tvm.contrib.cprune.table import Row, TaskTable, make_table
from tvm.contrib.cprune.tuning.devices import DevicePool, Tracker
from tvm.contrib.cprune.tuning.records import Measured, RecordLog, dump, faster, identity, input_identity
from tvm.contrib.cprune.tuning.search import Progress
from tvm.contrib.cprune.tuning.transplant import TransplantError
from tvm.contrib.cprune.tuning.tuners import TUNERS
from tvm.contrib.cprune.tuning.workers import MeasuringPool
from tvm.contrib.cprune.types import Algorithm, CPruneError, Latency, RelayModel, Task

# Programs of other tasks that are tried on a task after the first search.
DONORS = 3
# Slower programs of a task that are tried at a width that the fastest one does not fit.
ALTERNATIVES = 2


@dataclass(frozen=True)
class Candidate:
    """A model, the programs of its tasks, and the library compiled from both."""

    model: torch.nn.Module
    relay: RelayModel
    table: TaskTable
    library: Path


def rivals(direct: tuple[Task, ...], winograd: tuple[Task, ...]) -> dict[str, str]:
    """Return, in both directions, the workload keys of tasks that are the same layers by the two
    algorithms."""
    others = {task.layers: task.workload_key for task in winograd if task.layers}
    pairs = [(task.workload_key, others[task.layers]) for task in direct if task.layers in others]
    return {a: b for one, two in pairs if one != two for a, b in ((one, two), (two, one))}


class Compiler:
    """Tunes, transplants, builds and times models for one target. Use it as a context manager.

    Parameters
    ----------
    target
        A preset's name (``presets.py``) or a target of TVM; None is this machine.
    run_dir
        Records go to ``records/`` there, libraries to ``build/``.
    report
        Is told the progress of searches as ``{"event": "progress", ...}``.
    strict
        Whether a task without a valid program is an error.
    profile
        Records of layers at many widths (``profile_widths``): what is in them is not measured again.
    tracker
        Where devices are asked for that programs and models are timed on; None is this machine.
    """

    def __init__(
        self,
        config: PruneConfig,
        input_shape: tuple[int, ...],
        run_dir: Path,
        target: str | None = None,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        strict: bool = True,
        profile: Path | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.config, self.input_shape, self.run_dir, self.report = config, input_shape, Path(run_dir), report
        self.strict, self.profile = strict, profile
        self.tuner = TUNERS[config.tune.tuner]
        self.preset, self.tracker = find_preset(target), tracker
        plain = self.preset.make_target()
        self.target = pinned_target(plain) if config.tune.tuner == "ansor" else plain
        self.algorithms: dict[str, Algorithm] = {}
        self._cache = LoweringCache()
        self._objects = ObjectCache(self.run_dir / "build" / "objects")
        self._seconds: dict[str, float] = defaultdict(float)

    def __enter__(self) -> "Compiler":
        if self.tracker is None:
            self.pool = MeasuringPool(self.config.tune)
        else:
            self.pool = DevicePool(self.config.tune, self.preset, self.tracker, self.report)
        self.searched = RecordLog(self.run_dir / "records" / "search.json")
        self.transplanted = RecordLog(self.run_dir / "records" / "transplant.json")
        self.profiled = _read_profile(self.profile)
        (self.run_dir / "build").mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def best(self, workload_key: str) -> Measured | None:
        """Return the fastest program that was measured for a workload."""
        measured = faster(self.searched.best(workload_key), self.transplanted.best(workload_key))
        return faster(measured, self.profiled.best(workload_key))

    def trials(self) -> dict[str, int]:
        """Return how many programs were measured so far, by how they came about."""
        return {"search": len(self.searched.measured), "transplant": len(self.transplanted.measured)}

    def seconds(self) -> dict[str, float]:
        """Return how long each kind of work took in this process."""
        return {name: round(value, 2) for name, value in self._seconds.items()}

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        started = time.time()
        try:
            yield
        finally:
            self._seconds[name] += time.time() - started

    def tune(self, model: torch.nn.Module, algorithms: Mapping[str, Algorithm] | None = None) -> Candidate:
        """Search programs for every task of a model, and choose each convolution's algorithm by measurement.

        Parameters
        ----------
        algorithms
            What an earlier run chose; None to choose.
        """
        relay_model = self.import_model(model)
        table = self.tune_relay(relay_model, algorithms)
        self.baseline = Candidate(model, relay_model, table, self._build(relay_model, table, "unpruned"))
        return self.baseline

    def tune_relay(
        self, relay_model: RelayModel, algorithms: Mapping[str, Algorithm] | None = None
    ) -> TaskTable:
        """Search programs for every task of a Relay model; see ``tune``."""
        with self._clock("search"):
            if algorithms is None:
                both = self.config.tune.tuner == "ansor"
                algorithms = self._search_both(relay_model) if both else self._search_templates(relay_model)
            self.algorithms = dict(algorithms)
        return self._table(self.extract(relay_model))

    def import_model(self, model: torch.nn.Module) -> RelayModel:
        """Return a model as Relay sees it, in the tuner's layout."""
        return from_torch(model, self.input_shape, self.tuner.layout)

    def _search_templates(self, relay_model: RelayModel) -> dict[str, Algorithm]:
        """Search every template of AutoTVM for every layer, and return each layer's fastest."""
        tasks = self.extract(relay_model)
        self._search(list(tasks), self.config.tune)
        self._share(list(tasks))
        by_layer: dict[str, list[Task]] = defaultdict(list)
        for task in tasks:
            for layer in task.layers:
                by_layer[layer].append(task)
        known = {
            layer: [task for task in found if self.best(task.workload_key)]
            for layer, found in by_layer.items()
        }
        fastest = {layer: max(found, key=self._speed) for layer, found in known.items() if found}
        return {layer: str(task.subgraphs[0].algorithm) for layer, task in fastest.items()}

    def _search_both(self, relay_model: RelayModel) -> dict[str, Algorithm]:
        direct = self.extract(relay_model)
        every: dict[str, Algorithm] = dict.fromkeys(winograd_layers(relay_model.mod), "winograd")
        winograd = extract_from_program(relay_model.mod, None, self.target, every, self._cache)
        tasks = list({task.workload_key: task for task in (*direct, *winograd)}.values())
        self._search(tasks, self.config.tune, rivals(direct, winograd))
        self._share(tasks)
        by_layer = {layer: task for task in direct for layer in task.layers}
        chosen: dict[str, Algorithm] = {}
        for task in winograd:
            for layer in task.layers:
                a, b = self.best(by_layer[layer].workload_key), self.best(task.workload_key)
                if layer in every and faster(a, b) is b and a is not b:
                    chosen[layer] = "winograd"
        return chosen

    def _share(self, tasks: list[Task]) -> None:
        """Try on each task the best programs of others that compute alike at other shapes; a good one often
        serves all of them, and a few trials do not find it for each."""
        tasks = [task for task in tasks if self.best(task.workload_key)]
        programs = [(task, self._best(task).line) for task in tasks]
        inputs = []
        for task in tasks:
            quicker = [each for each in programs if self._speed(each[0]) > self._speed(task)]
            inputs += self._borrow(task, quicker)
        for start in range(0, len(inputs), self.config.tune.batch):
            self._measure(inputs[start : start + self.config.tune.batch])

    def _borrow(self, task: Task, programs: list[tuple[Task, str]]) -> list[Any]:
        """Return ``MeasureInput`` of the quickest of ``programs`` that can move to ``task``."""
        found: list[Any] = []
        for other, line in sorted(programs, key=lambda each: self._speed(each[0]), reverse=True):
            try:
                found += self.tuner.transplant(line, other, task, 1)
            except TransplantError:
                continue
            if len(found) == DONORS:
                break
        return found

    def _speed(self, task: Task) -> float:
        """Return the operations a second of a task's fastest program."""
        latency = self._best(task).latency
        return task.flops / latency.median if latency else 0.0

    def _best(self, task: Task) -> Measured:
        best = self.best(task.workload_key)
        assert best is not None, task.title
        return best

    def _measure(self, inputs: list[Any]) -> list[Measured]:
        """Measure transplanted programs, each once, and log them."""
        known = {input_identity(each.line) for each in self.transplanted.measured}
        new = [each for name, each in {identity(i): i for i in inputs}.items() if name not in known]
        results = self.pool.measure(new)
        measured = [dump(i, r) for i, r in zip(new, results, strict=True)]
        self.transplanted.append(measured)
        return measured

    def search_more(self, candidate: Candidate, trials: int) -> Candidate:
        """Spend ``trials`` further search trials on a model's costliest tasks; build it anew."""
        rows = candidate.table.by_impact()
        tasks = [row.task for row in rows[: max(1, trials // self.config.tune.batch)]]
        known = sum(len(self.searched.of(task.workload_key)) for task in tasks)
        budget = math.ceil((known + trials) / len(tasks))
        with self._clock("search"):
            self._search(tasks, replace(self.config.tune, trials=budget))
        return self.rebuild(candidate, "tuned")

    def rebuild(self, candidate: Candidate, name: str) -> Candidate:
        """Compile a candidate again, with its model's present weights and the fastest programs known."""
        relay_model = self.import_model(candidate.model)
        table = self._table(self.extract(relay_model))
        return Candidate(candidate.model, relay_model, table, self._build(relay_model, table, name))

    def move(self, current: Candidate, model: torch.nn.Module) -> Candidate:
        """Compile a pruned ``model`` with the programs of ``current``, moved to its widths.

        Only tasks that changed are measured; a search happens only where no transplant is legal.

        Raises
        ------
        CPruneError
            If a task has no valid program at the new width.
        """
        with self._clock("import"):
            relay_model = self.import_model(model)
        return Candidate(model, relay_model, *self.compile(relay_model, current.table, "candidate"))

    def compile(self, relay_model: RelayModel, donor: TaskTable, name: str) -> tuple[TaskTable, Path]:
        """Compile a Relay model with the programs of ``donor``, moved to its widths.

        Returns
        -------
        Its own table, and the library, which is called after ``name``.

        Raises
        ------
        CPruneError
            If a task has no valid program at its width.
        """
        with self._clock("import"):
            tasks = self.extract(relay_model)
        orphans = [task for task in tasks if self.best(task.workload_key) is None]
        with self._clock("transplant"):
            orphans = [task for task in orphans if not self._transplant(task, donor)]
        if orphans:
            with self._clock("search"):
                self._search(orphans, replace(self.config.tune, trials=self.config.tune.batch))
        table = self._table(tasks)
        return table, self._build(relay_model, table, name)

    def discard(self, candidate: Candidate) -> None:
        """Delete the library of a model that is not needed any more; the unpruned one stays, for the
        comparison."""
        if candidate.library != self.baseline.library:
            candidate.library.unlink(missing_ok=True)

    def _transplant(self, task: Task, table: TaskTable) -> bool:
        """Measure the programs that may move to ``task``; return whether one was valid.

        Where none of them fits, slower ones that do, and those of other tasks that compute alike, are tried,
        too.
        """
        own, inputs, fitting = donors(task, table), [], False
        for row in own:
            try:
                inputs += self.tuner.transplant(row.program.record, row.task, task, self.config.variants)
                fitting = fitting or self.tuner.fits(row.program.record, row.task, task)
            except TransplantError:
                continue
        if not fitting:
            inputs += [each for row in own for each in self._alternatives(task, row)]
            rest = [(row.task, row.program.record) for row in table.rows if row not in own]
            inputs += self._borrow(task, rest)
        return any(each.latency is not None for each in self._measure(inputs))

    def _alternatives(self, task: Task, row: Row) -> list[Any]:
        """Return ``MeasureInput`` of the fastest other programs known of a row's task that fit ``task``."""
        key, found = row.task.workload_key, []
        measured = [
            each for log in (self.searched, self.transplanted) for each in log.of(key) if each.latency
        ]
        for each in sorted(measured, key=lambda m: m.latency.median if m.latency else 0.0):
            try:
                if self.tuner.fits(each.line, row.task, task):
                    found += self.tuner.transplant(each.line, row.task, task, 1)
            except TransplantError:
                continue
            if len(found) == ALTERNATIVES:
                break
        return found

    def time(self, candidates: Mapping[str, Candidate]) -> dict[str, Latency]:
        """Time candidates side by side."""
        return self.time_libraries({name: candidate.library for name, candidate in candidates.items()})

    def time_libraries(self, libraries: Mapping[str, Path]) -> dict[str, Latency]:
        """Time compiled models side by side."""
        with self._clock("measure"):
            return measure.time_side_by_side(
                self.pool, libraries, self.input_shape, self.config.measure_repeats
            )

    def extract(self, relay_model: RelayModel) -> tuple[Task, ...]:
        """Return the tasks of a Relay model, each convolution by the algorithm that was chosen for it."""
        tuner = self.config.tune.tuner
        return extract_from_program(relay_model.mod, None, self.target, self.algorithms, self._cache, tuner)

    def _table(self, tasks: tuple[Task, ...]) -> TaskTable:
        tune = self.config.tune
        settings = (str(self.target), self.pool.threads, tune.cold_weights, self.strict)
        return make_table(tasks, self.best, *settings)

    def _build(self, relay_model: RelayModel, table: TaskTable, name: str) -> Path:
        with self._clock("build"):
            # A name of its own: a process that has loaded a library keeps seeing the old file under a name.
            path = self.run_dir / "build" / f"{name}-{time.time_ns()}.so"
            return measure.build_to(relay_model, table, path, self._objects, self.preset)

    def _search(self, tasks: list[Task], tune: Any, known_rivals: Mapping[str, str] | None = None) -> None:
        def tell(progress: Progress) -> None:
            self.report({"event": "progress", "progress": progress})

        if not tasks:
            raise CPruneError("the model has no task to tune: expected convolutions or dense layers")
        self.tuner.search(
            tasks, tune, self.pool, self.searched, self.config.seed, known_rivals, tell, self.strict
        )


def _read_profile(path: Path | None) -> RecordLog:
    log = RecordLog(None)
    if path is not None:
        if not path.is_file():
            raise CPruneError(f"cannot read {path}: expected the records that the command profile writes")
        log.append(RecordLog(path).measured)
    return log


def donors(task: Task, table: TaskTable) -> list[Row]:
    """Return the rows whose programs may move to a task: those of its own layers, joined by name and nothing
    else.

    A subgraph without a layer, such as a pooling, takes those with the same operators.
    """
    if task.layers:
        rows = [row for layer in task.layers for row in table.of_layer(layer)]
    else:
        ops = {subgraph.op for subgraph in task.subgraphs}
        rows = [row for row in table.rows if not row.task.layers and row.task.subgraphs[0].op in ops]
    return list({row.task.workload_key: row for row in rows}.values())
