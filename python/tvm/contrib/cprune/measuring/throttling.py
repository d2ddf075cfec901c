# SPDX-License-Identifier: Apache-2.0
"""Speed of devices: a reference program is timed on each device when it joins, and from time to time."""

import math
import threading
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
# Relative change of a device's speed, or difference between two devices, that is reported and corrected.
DRIFT_THRESHOLD = 0.1
# A device that is this many times as fast or as slow as the first one is not used.
MAX_DIFFERENCE = 4.0
# Checks of a device that joins, and the maximum before it is refused: its machine may be busy for a moment.
JOIN_CHECKS, MAX_JOIN_CHECKS = 2, 5
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
    """Tracks the speed of devices, by address: their initial speed relative to the first device, and how it
    changes. It is safe to share by threads.

    A short disturbance must not distort later measurements. A check therefore yields the first quartile of
    its runs, and a change of speed counts only if a second check confirms it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The first device and its initial run time of the reference program.
        self._standard: tuple[str, float] | None = None
        self._joining: dict[str, list[float]] = {}
        self._refused: set[str] = set()
        # How many times as long as on the first device programs initially take.
        self._relative: dict[str, float] = {}
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
        return device in self._unconfirmed or device in self._joining

    def is_refused(self, device: str) -> bool:
        """Return whether a device differs too much from the first one."""
        return device in self._refused

    def postpone(self, device: str) -> None:
        """Skip this check of a device that cannot run the reference program."""
        self._checked_at[device] = time.time()

    def update(self, device: str, costs: Sequence[float]) -> str | None:
        """Record the reference program's run times on a device, in seconds.

        Returns
        -------
        A message to report if the device's speed has changed, or differs from the first device's.
        """
        cost = sorted(costs)[len(costs) // 4]
        with self._lock:
            self._checked_at[device] = time.time()
            initial = self._initial.get(device)
            return self._join(device, cost) if initial is None else self._follow(device, cost / initial)

    def _join(self, device: str, cost: float) -> str | None:
        """Compare a device with the first one as soon as there are enough checks."""
        costs = self._joining.setdefault(device, [])
        costs.append(cost)
        best = min(costs)
        first, standard = self._standard or (device, best)
        relative = best / standard
        refused = not 1 / MAX_DIFFERENCE <= relative <= MAX_DIFFERENCE
        if len(costs) < (MAX_JOIN_CHECKS if refused else JOIN_CHECKS):
            return None
        del self._joining[device]
        self._standard = (first, standard)
        difference = f"device {device} takes {relative:.2f} times as long as device {first}"
        if refused:
            self._refused.add(device)
            return f"{difference} and is not used: register devices of different kinds under different keys"
        self._initial[device] = best
        if abs(relative - 1) <= DRIFT_THRESHOLD:
            return None
        self._relative[device] = relative
        return f"{difference}; its measurements are divided by this factor"

    def _follow(self, device: str, ratio: float) -> str | None:
        """Detect a change of speed; ``ratio`` is the run time over the initial one."""
        slowdown, unconfirmed = self._slowdown.get(device, 1.0), self._unconfirmed.pop(device, None)
        if unconfirmed is None and abs(ratio / slowdown - 1) > DRIFT_THRESHOLD:
            self._unconfirmed[device] = ratio
            return None
        ratios = [ratio] if unconfirmed is None else [ratio, unconfirmed]
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
        """Return the run times that the first device would have at its initial speed."""
        factor = self._relative.get(device, 1.0) * self._slowdown.get(device, 1.0)
        return tuple(cost / factor for cost in costs)
