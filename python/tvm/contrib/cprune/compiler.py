# SPDX-License-Identifier: Apache-2.0
"""From a model to a compiled one with its task table: by search for the first, by transplanting for all
others."""

import gc
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune.building import build as measure
from tvm.contrib.cprune.building.object_cache import ObjectCache
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import faster
from tvm.contrib.cprune.measuring.rpc_pool import RpcMeasurer
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.program_store import ProgramStore
from tvm.contrib.cprune.table import Row, TaskTable, make_table
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.targets.target import pinned_target
from tvm.contrib.cprune.tasks import LoweringCache, extract_from_program
from tvm.contrib.cprune.transform.pin_algorithms import winograd_layers
from tvm.contrib.cprune.tuning.ansor.search import Progress
from tvm.contrib.cprune.tuning.backends import BACKENDS
from tvm.contrib.cprune.types import Algorithm, CPruneError, Latency, RelayModel, Task


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
        self.tuner = BACKENDS[config.tune.tuner]
        self.preset, self.tracker = find_preset(target), tracker
        plain = self.preset.make_target()
        self.target = pinned_target(plain) if config.tune.tuner == "ansor" else plain
        self.algorithms: dict[str, Algorithm] = {}
        self._cache = LoweringCache()
        self._objects = ObjectCache(self.run_dir / "build" / "objects")
        self._seconds: dict[str, float] = defaultdict(float)

    def __enter__(self) -> "Compiler":
        if self.tracker is None and not self.preset.runs_here:
            raise CPruneError(
                f"programs for {self.preset.name} do not run on this machine's CPU: "
                "give the tracker and the key of devices that they run on"
            )
        if self.tracker is None:
            self.pool = LocalMeasurer(self.config.tune)
        else:
            self.pool = RpcMeasurer(self.config.tune, self.preset, self.tracker, self.report)
        try:
            self.programs = ProgramStore(self.tuner, self.pool, self.run_dir / "records", self.profile)
        except CPruneError:
            self.pool.close()
            raise
        (self.run_dir / "build").mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def trials(self) -> dict[str, int]:
        """Return how many programs were measured so far, by how they came about."""
        return self.programs.trials()

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
        self.programs.share(self._table(tasks, strict=False).rows, self.config.tune.batch)
        by_layer: dict[str, list[Row]] = defaultdict(list)
        for row in self._table(tasks, strict=False).rows:
            for layer in row.task.layers:
                by_layer[layer].append(row)
        fastest = {layer: max(found, key=lambda row: row.speed) for layer, found in by_layer.items()}
        return {layer: str(row.task.subgraphs[0].algorithm) for layer, row in fastest.items()}

    def _search_both(self, relay_model: RelayModel) -> dict[str, Algorithm]:
        direct = self.extract(relay_model)
        every: dict[str, Algorithm] = dict.fromkeys(winograd_layers(relay_model.mod), "winograd")
        winograd = self.extract(relay_model, every)
        tasks = list({task.workload_key: task for task in (*direct, *winograd)}.values())
        self._search(tasks, self.config.tune, rivals=rivals(direct, winograd))
        self.programs.share(self._table(tasks, strict=False).rows, self.config.tune.batch)
        by_layer = {layer: task for task in direct for layer in task.layers}
        chosen: dict[str, Algorithm] = {}
        for task in winograd:
            for layer in task.layers:
                a, b = (self.programs.best(t.workload_key) for t in (by_layer[layer], task))
                if layer in every and faster(a, b) is b and a is not b:
                    chosen[layer] = "winograd"
        return chosen

    def search_more(self, candidate: Candidate, trials: int) -> Candidate:
        """Spend ``trials`` further search trials on a model's costliest tasks; build it anew."""
        rows = candidate.table.by_impact()
        tasks = [row.task for row in rows[: max(1, trials // self.config.tune.batch)]]
        known = sum(len(self.programs.searched.of(task.workload_key)) for task in tasks)
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
        table = self.fit(relay_model, donor)
        return table, self._build(relay_model, table, name)

    def fit(self, relay_model: RelayModel, donor: TaskTable) -> TaskTable:
        """Return the table of a Relay model: the programs of ``donor``, moved to its widths.

        Raises
        ------
        CPruneError
            If a task has no valid program at its width.
        """
        with self._clock("import"):
            tasks = self.extract(relay_model, measure.algorithms_of(donor))
        orphans = [task for task in tasks if self.programs.best(task.workload_key) is None]
        with self._clock("transplant"):
            variants = self.config.variants
            orphans = [task for task in orphans if not self.programs.move(task, donor, variants)]
        if orphans:
            with self._clock("search"):
                self._search(orphans, replace(self.config.tune, trials=self.config.tune.batch))
        return self._table(tasks)

    def discard(self, candidate: Candidate) -> None:
        """Delete the library of a model that is not needed any more; the unpruned one stays, for the
        comparison."""
        if candidate.library != self.baseline.library:
            candidate.library.unlink(missing_ok=True)

    def time(self, candidates: Mapping[str, Candidate], rounds: int = 1) -> dict[str, Latency]:
        """Time candidates side by side; see ``measure.time_side_by_side``."""
        return self.time_libraries({name: each.library for name, each in candidates.items()}, rounds)

    def time_libraries(self, libraries: Mapping[str, Path], rounds: int = 1) -> dict[str, Latency]:
        """Time compiled models side by side; see ``measure.time_side_by_side``."""
        with self._clock("measure"):
            repeats = self.config.measure_repeats
            return measure.time_side_by_side(self.pool, libraries, self.input_shape, repeats, rounds)

    def extract(
        self, relay_model: RelayModel, algorithms: Mapping[str, Algorithm] | None = None
    ) -> tuple[Task, ...]:
        """Return the tasks of a Relay model, each convolution by its algorithm: what ``tune`` chose, unless
        given."""
        chosen = self.algorithms if algorithms is None else algorithms
        tuner = self.config.tune.tuner
        return extract_from_program(relay_model.mod, None, self.target, chosen, self._cache, tuner)

    def _table(self, tasks: Sequence[Task], strict: bool | None = None) -> TaskTable:
        strict = self.strict if strict is None else strict
        settings = (str(self.target), self.pool.threads, self.config.tune.cold_weights, strict)
        return make_table(tasks, self.programs.best, *settings)

    def _build(self, relay_model: RelayModel, table: TaskTable, name: str) -> Path:
        with self._clock("build"):
            # Earlier models, traced and imported, lie about in cycles. Python counts their objects, which are
            # few, not their weights, and looks late.
            gc.collect()
            # A name of its own: a process that has loaded a library keeps seeing the old file under a name.
            path = self.run_dir / "build" / f"{name}-{time.time_ns()}.so"
            return measure.build_to(relay_model, table, path, self._objects, self.preset)

    def _search(self, tasks: list[Task], tune: TuneConfig, **options: Any) -> None:
        """Search programs for tasks; ``options`` are the tuner's own."""

        def tell(progress: Progress) -> None:
            self.report({"event": "progress", "progress": progress})

        if not tasks:
            raise CPruneError("the model has no task to tune: expected convolutions or dense layers")
        log, seed = self.programs.searched, self.config.seed
        self.tuner.search(tasks, tune, self.pool, log, seed, tell, self.strict, **options)
