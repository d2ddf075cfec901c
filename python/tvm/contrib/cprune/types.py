# SPDX-License-Identifier: Apache-2.0
"""The values that pass between CPrune's parts: frozen, and free of torch and tvm (``RelayModel`` only carries
them)."""

from dataclasses import dataclass, field
from typing import Any, Literal


class CPruneError(Exception):
    """Something that the user can mend; the message says what came, what was expected and what to do."""


# "direct" or "winograd" for auto_scheduler, a template's name for AutoTVM.
Algorithm = str
TunerName = Literal["ansor", "autotvm"]
# Of a layer, whose channels are meant.
Side = Literal["out", "in"]
# Operation, name and extent of one axis of a compute DAG.
Axis = tuple[str, str, int]


# What a compiled model calls its input.
INPUT = "data"


@dataclass(frozen=True)
class RelayModel:
    """A model as Relay sees it: its layers are named in the spans of their calls, its parameters are
    constants."""

    mod: Any
    input_shape: tuple[int, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Latency:
    """Repeated measurements of one program or model, in seconds."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        ordered = sorted(self.samples)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    @property
    def spread(self) -> float:
        """Half of the distance between the quartiles."""
        ordered = sorted(self.samples)
        last = len(ordered) - 1
        return (ordered[round(0.75 * last)] - ordered[round(0.25 * last)]) / 2


@dataclass(frozen=True)
class Split:
    """One split of a program: ``lengths`` are its inner lengths, outermost first, as the record's ``SP`` step
    has them.

    ``axes`` are the original axes of the compute DAG the split loop consists of (more than one where loops
    were fused).
    """

    step: int
    stage: str
    axes: tuple[int, ...]
    extent: int
    lengths: tuple[int, ...]

    @property
    def product(self) -> int:
        """The inner loops' total length: what an extent must be a multiple of to keep them."""
        total = 1
        for length in self.lengths:
            total *= length
        return total


@dataclass(frozen=True)
class Program:
    """The fastest measured schedule of a task: its record (a line of an auto_scheduler log), structure and
    latency."""

    record: str
    latency: Latency
    out_splits: tuple[Split, ...] = ()
    in_splits: tuple[Split, ...] = ()


@dataclass(frozen=True)
class Subgraph:
    """One fused primitive function at one call site. ``layers`` are those of its anchors; a pooling has
    none."""

    name: str
    op: str
    layers: tuple[str, ...]
    algorithm: Algorithm | None = None


@dataclass(frozen=True)
class Task:
    """A tuning task of auto_scheduler or AutoTVM: one workload key on one target, and the subgraphs that
    share it.

    ``axes`` are those of its compute DAG (see ``axes.py``); ``out_axes`` and ``in_axes`` are the numbers of
    those that run over the anchor's output and input channels; ``groups`` is the anchor's. Only measuring
    needs ``tvm_task``, which TVM has for the tasks of a module that was lowered in this process.
    """

    workload_key: str
    subgraphs: tuple[Subgraph, ...]
    flops: float
    out_axes: tuple[int, ...] = ()
    in_axes: tuple[int, ...] = ()
    groups: int = 1
    axes: tuple[Axis, ...] = ()
    tuner: TunerName = "ansor"
    tvm_task: Any = field(default=None, compare=False, repr=False)

    @property
    def weight(self) -> int:
        return len(self.subgraphs)

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(layer for subgraph in self.subgraphs for layer in subgraph.layers)

    @property
    def title(self) -> str:
        """What to call the task in tables: its layers, or its operator where it has none."""
        return ", ".join(dict.fromkeys(self.layers)) or self.subgraphs[0].op


@dataclass(frozen=True)
class GroupMember:
    """A layer's share in a channel group: ``scale`` of its channels go with each channel of the group."""

    layer: str
    side: Side
    width: int
    scale: int
    groups: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be removed together; ``root`` is the layer that names it, ``round_to`` what a width
    divides by."""

    root: str
    width: int
    round_to: int
    members: tuple[GroupMember, ...]


@dataclass(frozen=True)
class ChannelStep:
    """The pruning of one channel group from ``width`` to ``next_width``."""

    group: ChannelGroup
    next_width: int
    reason: str

    @property
    def width(self) -> int:
        return self.group.width


@dataclass(frozen=True)
class Decision:
    """What became of a candidate, and why."""

    accepted: bool
    reason: str
