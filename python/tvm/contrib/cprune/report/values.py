# SPDX-License-Identifier: Apache-2.0
"""What a report shows, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass

# Verdicts on a candidate, in the order of legends, with their description.
VERDICTS = {
    "accepted": "accepted",
    "accuracy": "rejected: accuracy",
    "latency": "rejected: latency",
    "impossible": "rejected: impossible",
    "measured": "measured only",
}


@dataclass(frozen=True)
class Side:
    """The unpruned model or the pruned one.

    Attributes
    ----------
    latency_ms, spread_ms
        Median and half the interquartile range.
    accuracy_val, accuracy_test
        Accuracies in [0, 1]. The test split is read once, at the end of a run.
    macs, params
        Multiply-accumulates and parameters; None before the end of a run.
    """

    latency_ms: float
    spread_ms: float
    accuracy_val: float
    accuracy_test: float | None = None
    macs: int | None = None
    params: int | None = None


@dataclass(frozen=True)
class Attempt:
    """A candidate and the verdict on it.

    Attributes
    ----------
    widths : tuple of (str, int, int)
        Root of each channel group, with its channels before and after.
    verdict : str
        A key of ``VERDICTS``.
    latency_ms, accuracy
        None if the candidate was not timed, or not evaluated on the whole validation split.
    accuracy_part, accuracy_untrained : tuple of (float, float), optional
        Lowest and highest accuracy that an evaluation on a part of the split leaves possible, after the
        training and before it.
    """

    iteration: int
    task: str
    layers: tuple[str, ...]
    widths: tuple[tuple[str, int, int], ...]
    verdict: str
    reason: str
    latency_ms: float | None
    accuracy: float | None
    seconds: float
    accuracy_part: tuple[float, float] | None = None
    accuracy_untrained: tuple[float, float] | None = None

    @property
    def accepted(self) -> bool:
        """Whether the loop continued with this candidate."""
        return self.verdict == "accepted"


@dataclass(frozen=True)
class LayerWidth:
    """Output channels of a layer before and after pruning."""

    layer: str
    before: int
    after: int


@dataclass(frozen=True)
class Work:
    """Time that some subgraphs take per inference.

    Attributes
    ----------
    seconds, flops
        Sums over the subgraphs.
    algorithms : tuple of str
        Algorithms of their anchors. Speeds of different algorithms are not comparable.
    """

    seconds: float
    flops: float
    algorithms: tuple[str, ...]

    @property
    def gflops(self) -> float:
        """Throughput in GFLOP/s."""
        return self.flops / self.seconds / 1e9


@dataclass(frozen=True)
class TaskChange:
    """The layers that share a task of the unpruned model, and their time in both models."""

    title: str
    before: Work | None
    after: Work | None


@dataclass(frozen=True)
class RunReport:
    """Everything that a report shows about a run.

    Attributes
    ----------
    name : str
        Name of the run folder.
    method : str
        Name of the pruning method.
    start : Side
        The unpruned model as it was timed before pruning, with which the candidates compare.
    before, after : Side
        The unpruned model and the pruned one at the end of the run. Before the end, ``before`` is ``start``,
        and ``after`` the last accepted candidate, None if there is none.
    stopped : str
        Why the pruning loop stopped; "" if it has not stopped.
    finished : bool
        Whether the run has a result.
    phases, work : mapping
        Seconds by phase and by kind of work.
    notes : tuple of str
        What is missing, and why.
    """

    name: str
    method: str
    model: str
    dataset: str
    target: str
    device: str
    threads: int | None
    requirement: float
    start: Side
    before: Side
    after: Side | None
    speedup: float | None
    stopped: str
    finished: bool
    attempts: tuple[Attempt, ...]
    widths: tuple[LayerWidth, ...]
    tasks: tuple[TaskChange, ...]
    phases: Mapping[str, float]
    work: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def accepted(self) -> tuple[Attempt, ...]:
        """The accepted candidates, in order."""
        return tuple(attempt for attempt in self.attempts if attempt.accepted)
