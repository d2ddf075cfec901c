# SPDX-License-Identifier: Apache-2.0
"""Detection of devices that throttle: a reference program is timed on each device from time to time."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import tvm
from tvm import te
from tvm.contrib.cprune.measuring.result import ArgSpecs, Costs
from tvm.contrib.cprune.targets.presets import Preset

# The reference program multiplies square matrices of this size. Its loop over columns is split by a vector's
# length on CPUs and by the size of a thread block on GPUs.
MATRIX_SIZE, VECTOR_LENGTH, BLOCK_SIZE = 384, 16, 64
# Relative change of a device's speed that is reported and corrected.
DRIFT_THRESHOLD = 0.1
# Seconds between two checks of a busy device.
CHECK_INTERVAL = 20.0
# Minimum number of runs in a check, and their minimum total duration in seconds.
CHECK_REPEATS, CHECK_SECONDS = 9, 0.02


def build_reference(preset: Preset, path: Path) -> ArgSpecs:
    """Compile the reference program for a preset's devices into the library ``path``.

    Returns
    -------
    Shape and data type of its arguments.

    Raises
    ------
    InfrastructureError
        If the preset's compiler is missing or fails.
    """
    shape = (MATRIX_SIZE, MATRIX_SIZE)
    left, right = (te.placeholder(shape, name=name) for name in ("left", "right"))
    inner = te.reduce_axis((0, MATRIX_SIZE), name="k")
    product = te.compute(shape, lambda i, j: te.sum(left[i, inner] * right[inner, j], axis=inner))
    schedule = te.create_schedule(product.op)
    rows, columns = product.op.axis
    if preset.device == "cpu":
        outer, vector = schedule[product].split(columns, VECTOR_LENGTH)
        schedule[product].reorder(rows, outer, inner, vector)
        schedule[product].parallel(rows)
        schedule[product].vectorize(vector)
    else:
        outer, thread = schedule[product].split(columns, BLOCK_SIZE)
        schedule[product].bind(schedule[product].fuse(rows, outer), te.thread_axis("blockIdx.x"))
        schedule[product].bind(thread, te.thread_axis("threadIdx.x"))
    args = [left, right, product]
    preset.link(tvm.build(schedule, args, target=preset.make_target()), path)
    return [(shape, "float32")] * len(args)


class SpeedWatch:
    """Tracks the speed of devices, by address, relative to their initial speed.

    A short disturbance must not distort later measurements. A check therefore yields the first quartile of
    its runs, and a change of speed counts only if a second check confirms it.
    """

    def __init__(self) -> None:
        self._initial: dict[str, float] = {}
        self._checked_at: dict[str, float] = {}
        self._unconfirmed: dict[str, float] = {}
        # How many times as long as initially programs take.
        self._slowdown: dict[str, float] = {}

    def is_due(self, device: str) -> bool:
        """Return whether it is time to check a device."""
        return time.time() - self._checked_at.get(device, 0.0) > CHECK_INTERVAL

    def needs_confirmation(self, device: str) -> bool:
        """Return whether the last check must be repeated."""
        return device in self._unconfirmed

    def postpone(self, device: str) -> None:
        """Skip this check of a device that cannot run the reference program."""
        self._checked_at[device] = time.time()

    def update(self, device: str, costs: Sequence[float]) -> str | None:
        """Record the reference program's run times on a device, in seconds.

        Returns
        -------
        A message to report if the device's speed has changed.
        """
        self._checked_at[device] = time.time()
        cost, unconfirmed = sorted(costs)[len(costs) // 4], self._unconfirmed.pop(device, None)
        initial, slowdown = self._initial.get(device), self._slowdown.get(device, 1.0)
        changed = initial is None or abs(cost / initial / slowdown - 1) > DRIFT_THRESHOLD
        if unconfirmed is None and changed:
            self._unconfirmed[device] = cost
            return None
        candidates = [cost] if unconfirmed is None else [cost, unconfirmed]
        if initial is None:
            self._initial[device] = min(candidates)
            return None
        ratios = [candidate / initial for candidate in candidates]
        # Of two checks, trust the one that is closer to the earlier speed.
        return self._set_slowdown(device, min(ratios, key=lambda ratio: abs(math.log(ratio / slowdown))))

    def _set_slowdown(self, device: str, slowdown: float) -> str | None:
        if abs(slowdown / self._slowdown.get(device, 1.0) - 1) <= DRIFT_THRESHOLD:
            return None
        if abs(slowdown - 1) <= DRIFT_THRESHOLD:
            self._slowdown[device] = 1.0
            return f"device {device} is back to its initial speed"
        self._slowdown[device] = slowdown
        return (
            f"device {device} takes {slowdown:.2f} times as long as initially; "
            "its measurements are divided by this factor"
        )

    def correct(self, device: str, costs: Sequence[float]) -> Costs:
        """Return the run times that a device would have at its initial speed."""
        return tuple(cost / self._slowdown.get(device, 1.0) for cost in costs)
