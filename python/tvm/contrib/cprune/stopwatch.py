# SPDX-License-Identifier: Apache-2.0
"""Time spent by kind of work."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OTHER = "other"


class Stopwatch:
    """Divides the time since its creation among kinds of work.

    Each moment counts once: for the innermost work that is running, or as ``OTHER`` if none is. The seconds
    of all kinds of work therefore add up to the elapsed time.

    Parameters
    ----------
    clock
        Returns the present time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._running = [OTHER]
        self._seconds: dict[str, float] = defaultdict(float)
        self._earlier: dict[str, float] = {}

    @contextmanager
    def __call__(self, work: str) -> Iterator[None]:
        """Time the body of a ``with`` statement as ``work``."""
        self._count()
        self._running.append(work)
        try:
            yield
        finally:
            self._count()
            self._running.pop()

    def seconds(self) -> dict[str, float]:
        """Return the seconds by kind of work."""
        self._count()
        return dict(self._seconds)

    def lap(self) -> dict[str, float]:
        """Return the seconds by kind of work since the last call, or since the creation."""
        seconds, earlier = self.seconds(), self._earlier
        self._earlier = seconds
        laps = {work: total - earlier.get(work, 0.0) for work, total in seconds.items()}
        return {work: lap for work, lap in laps.items() if lap > 0}

    def _count(self) -> None:
        """Count the time since the last call for the innermost work."""
        now = self._clock()
        self._seconds[self._running[-1]] += now - self._last
        self._last = now
