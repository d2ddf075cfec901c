# SPDX-License-Identifier: Apache-2.0
"""A fixed program that is timed on every device again and again: one that throttles shows in it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tvm
from tvm import te
from tvm.contrib.cprune.targets.presets import Preset

# Rows and columns of the matrices that it multiplies; columns of a vector and of a block.
SIZE, VECTOR, BLOCK = 384, 16, 64
# A device whose speed changed by more than this share is said, and its times are corrected.
DRIFT = 0.1
# Seconds between two looks at a device that is at work, and runs and seconds of a look, at least.
EVERY, RUNS, SECONDS = 20.0, 9, 0.02


def build_reference(preset: Preset, path: Path) -> list[tuple[tuple[int, ...], str]]:
    """Compile the reference program for a preset's devices; return its arguments' shapes and types.

    Raises
    ------
    CPruneError
        If the preset's compiler is missing or fails.
    """
    left, right = (te.placeholder((SIZE, SIZE), name=name) for name in ("left", "right"))
    inner = te.reduce_axis((0, SIZE), name="k")
    product = te.compute((SIZE, SIZE), lambda i, j: te.sum(left[i, inner] * right[inner, j], axis=inner))
    schedule = te.create_schedule(product.op)
    rows, columns = product.op.axis
    if preset.device == "cpu":
        outer, vector = schedule[product].split(columns, VECTOR)
        schedule[product].reorder(rows, outer, inner, vector)
        schedule[product].parallel(rows)
        schedule[product].vectorize(vector)
    else:
        outer, thread = schedule[product].split(columns, BLOCK)
        schedule[product].bind(schedule[product].fuse(rows, outer), te.thread_axis("blockIdx.x"))
        schedule[product].bind(thread, te.thread_axis("threadIdx.x"))
    args = [left, right, product]
    preset.link(tvm.build(schedule, args, target=preset.make_target()), path)
    return [((SIZE, SIZE), "float32")] * len(args)


@dataclass
class SpeedWatch:
    """How fast devices are, by address, beside how fast they were at first.

    Something that lasts for a moment must not spoil what is measured after it: a look's time is the first
    quartile of its runs, and a change is believed when a second look finds it, too.
    """

    _first: dict[str, float] = field(default_factory=dict)
    _looked: dict[str, float] = field(default_factory=dict)
    _doubted: dict[str, float] = field(default_factory=dict)
    _drift: dict[str, float] = field(default_factory=dict)

    def due(self, device: str) -> bool:
        """Whether it is time to run the reference program on a device."""
        return time.time() - self._looked.get(device, 0.0) > EVERY

    def doubts(self, device: str) -> bool:
        """Whether what was noted last wants a second look."""
        return device in self._doubted

    def skip(self, device: str) -> None:
        """Leave a device that cannot run the reference program alone for a while."""
        self._looked[device] = time.time()

    def note(self, device: str, costs: Sequence[float]) -> str:
        """Take the reference program's times on a device, in seconds; return what is to be said, or ""."""
        self._looked[device] = time.time()
        now, other = sorted(costs)[len(costs) // 4], self._doubted.pop(device, None)
        first, before = self._first.get(device), self._drift.get(device, 1.0)
        if other is None and (first is None or abs(now / first / before - 1) > DRIFT):
            self._doubted[device] = now
            return ""
        seen = [now] if other is None else [now, other]
        if first is None:
            self._first[device] = min(seen)
            return ""
        drift = min((each / first for each in seen), key=lambda each: abs(math.log(each / before)))
        if abs(drift / before - 1) <= DRIFT:
            return ""
        self._drift[device] = drift if abs(drift - 1) > DRIFT else 1.0
        if self._drift[device] == 1:
            return f"device {device} is as fast as at first again"
        return f"device {device} takes {drift:.2f} times as long as at first: its times are divided by that"

    def corrected(self, device: str, costs: Sequence[float]) -> tuple[float, ...]:
        """Return times on a device as they would have been at first."""
        return tuple(cost / self._drift.get(device, 1.0) for cost in costs)
