# SPDX-License-Identifier: Apache-2.0
"""Programs of a task with register tiles, blocks of Winograd tiles or divided reductions."""

import json
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from random import Random
from typing import Any

from tvm.auto_scheduler import _ffi_api as ffi

from tvm import auto_scheduler
from tvm.contrib.cprune.measuring.records import Measured, dump, to_input
from tvm.contrib.cprune.targets.target import core_count, vector_lanes, vector_registers
from tvm.contrib.cprune.tuning.ansor.reductions import reduction_programs
from tvm.contrib.cprune.tuning.ansor.register_tiles import (
    Tile,
    TileSplits,
    divisors,
    result_tiles,
    tile_splits,
    weight_tiles,
    with_tile,
)
from tvm.contrib.cprune.tuning.ansor.row_partition import partition_rows
from tvm.contrib.cprune.tuning.ansor.steps import Step, steps_of, vectorized_stages, with_steps
from tvm.contrib.cprune.tuning.ansor.tile_blocks import block_programs
from tvm.contrib.cprune.tuning.ansor.tiled_operation import tiled_operation
from tvm.contrib.cprune.types import Task

# Programs generated for each batch, of which the cost model selects some, and fast ones to vary.
CANDIDATES, MAX_VARIED = 48, 4
# The pragma that limits how many iterations TVM unrolls, and the limits that Ansor chooses from.
UNROLL, UNROLL_LIMITS = "auto_unroll_max_step", (0, 16, 64, 512)


class TiledPrograms:
    """Generates programs of a task with register tiles.

    Parameters
    ----------
    policy
        Ansor's search policy of the task, which samples loop nests.
    seed
        Seed of the choice of tiles and lengths.
    """

    def __init__(self, task: Task, policy: Any, seed: int) -> None:
        self._task, self._policy, self._random = task, policy, Random(seed)
        self._operation = tiled_operation(task.tvm_task.compute_dag)
        self._kinds: list[list[Tile]] = []
        self._record, self._sampled = "", list[list[Step]]()
        if self._operation is not None and task.tvm_task.target.kind.name == "llvm":
            target = str(task.tvm_task.target)
            size = vector_lanes(target), vector_registers(target)
            tiles = result_tiles(self._operation, *size), weight_tiles(self._operation, *size)
            self._kinds = [kind for kind in tiles if kind]

    def generate(self, measured: Iterable[Measured]) -> list[Any]:
        """Return distinct programs: half with new tiles, half variants of the fastest ones.

        Those of a Winograd convolution that compute blocks of tiles come first. Reductions get the programs
        of ``reductions.py``.

        Parameters
        ----------
        measured
            Records of the task.

        Returns
        -------
        ``MeasureInput`` of each, none if register tiles do not suit the task or its target.
        """
        task = self._task.tvm_task
        special = list(
            islice(chain(block_programs(task, self._random), reduction_programs(task)), CANDIDATES)
        )
        if self._kinds and not self._record:
            self._sample()
        if not self._sampled:
            return special
        valid = [(record.latency.median, record.line) for record in measured if record.latency]
        tiled = (steps for _, line in sorted(valid) if self._splits(steps := steps_of(line)))
        fastest = list(islice(tiled, MAX_VARIED))
        programs: dict[str, list[Step]] = {}
        for number in range(CANDIDATES):
            vary = fastest and number % 2
            steps = self._vary(fastest) if vary else self._retile([*self._sampled, *fastest])
            steps = partition_rows(task, steps)
            programs[json.dumps(steps)] = steps
        return [*special, *(self._input(steps) for steps in programs.values())]

    def _sample(self) -> None:
        """Sample loop nests, and keep those that a tile fits and whose operation is vectorized."""
        task, result = self._task.tvm_task, auto_scheduler.MeasureResult([0.0], 0, "", 0.0, 0.0)
        states = ffi.SketchPolicySampleInitialPopulation(self._policy)
        lines = [dump(auto_scheduler.MeasureInput(task, state), result).line for state in states]
        self._record = lines[0]
        self._sampled = [steps for steps in map(steps_of, lines) if self._is_vectorized(steps)]

    def _is_vectorized(self, steps: Sequence[Step]) -> bool:
        """Return whether a program tiles the operation, and vectorizes it."""
        splits = self._splits(steps)
        if not splits or self._operation is None:
            return False
        stage = splits.spatial[self._operation.vector].stage
        return stage in vectorized_stages(self._task.tvm_task.compute_dag, steps)

    def _splits(self, steps: Sequence[Step]) -> TileSplits | None:
        assert self._operation is not None
        return tile_splits(self._task.tvm_task.compute_dag, steps, self._operation)

    def _retile(self, programs: Sequence[list[Step]]) -> list[Step]:
        """Return one of some programs with a random tile, and other lengths outside of it."""
        steps = self._random.choice(programs)
        splits, tile = self._splits(steps), self._random.choice(self._random.choice(self._kinds))
        assert splits is not None
        cores = core_count(self._task.tvm_task)
        return with_tile(steps, splits, tile, cores, self._random)

    def _vary(self, programs: Sequence[list[Step]]) -> list[Step]:
        """Return one of some programs with another length outside of its tile, or another unroll limit."""
        steps = self._random.choice(programs)
        splits = self._splits(steps)
        assert splits is not None and self._operation is not None
        tiled = {split.step: axis for axis, split in splits.spatial.items()}
        number = self._random.choice([i for i, step in enumerate(steps) if step[0] in ("SP", "PR")])
        if number in tiled:
            axis = tiled[number]
            lengths = splits.spatial[axis].lengths
            # Along the rows, the loop around the tile may change, too.
            middle = {} if axis in self._operation.rows else {axis: lengths[1]}
            only, tile = TileSplits({axis: splits.spatial[axis]}, {}), Tile({axis: lengths[-1]}, middle)
            return with_tile(steps, only, tile, 1, self._random)
        changed = [list(step) for step in steps]
        step = changed[number]
        if step[0] == "SP" and len(step[4]) == 1:
            step[4] = [self._random.choice(divisors(int(step[3])))]
        elif step[0] == "PR" and str(step[3]).startswith(UNROLL):
            step[3] = f"{UNROLL}${self._random.choice(UNROLL_LIMITS)}"
        return changed

    def _input(self, steps: Sequence[Step]) -> Any:
        return to_input(with_steps(self._record, steps), self._task.tvm_task)
