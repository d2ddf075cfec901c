# SPDX-License-Identifier: Apache-2.0
"""Time spent by kind of work."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of each kind of work in this process."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, work: str) -> Iterator[None]:
        """Time the body of a ``with`` statement as ``work``."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[work] += time.monotonic() - started

    def seconds(self) -> dict[str, float]:
        """Return the seconds by kind of work, rounded to hundredths."""
        return {work: round(seconds, 2) for work, seconds in self._seconds.items()}
