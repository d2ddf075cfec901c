# SPDX-License-Identifier: Apache-2.0
"""Frozen values passed between the stages of CPrune. This module imports neither torch nor tvm."""

import math
import statistics
from dataclasses import dataclass, field
from typing import Any, Literal


class CPruneError(Exception):
    """An error that the user can fix. The message names the value, what was expected and the remedy."""


class CandidateError(CPruneError):
    """The candidate model or one of its programs is at fault: the pruning loop rejects it and continues."""


class InfrastructureError(CPruneError):
    """The machine, the compiler or a device failed: the run stops and can be resumed."""


class TransplantError(CandidateError):
    """A program cannot be transplanted to a task; the message gives the reason."""


# "direct", or "winograd-" and the tile size, for auto_scheduler, the name of a template for AutoTVM.
Algorithm = str
TunerName = Literal["ansor", "autotvm"]
# A layer's output channels or its input channels.
Side = Literal["out", "in"]
# Operation, name and extent of one axis of a compute DAG, or template, knob and extent for AutoTVM.
Axis = tuple[str, str, int]
# Name of the input of every compiled model.
INPUT = "data"


@dataclass(frozen=True)
class RelayModel:
    """A model imported into Relay.

    Attributes
    ----------
    mod : tvm.IRModule
        The module. The spans of its calls name the model's layers; its parameters are constants.
    input_shape : tuple of int
        Shape of the input, including the batch.
    layers : tuple of str
        Names of the layers with an anchor operator.
    """

    mod: Any
    input_shape: tuple[int, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Latency:
    """Latency of a program or a model: ``samples`` holds the seconds of each timed run."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the interquartile range in seconds."""
        ordered = sorted(self.samples)
        last = len(ordered) - 1
        return (ordered[round(0.75 * last)] - ordered[round(0.25 * last)]) / 2


@dataclass(frozen=True)
class Split:
    """A loop split of a program.

    Attributes
    ----------
    step, stage
        Index of the record's transform step and name of its stage; number and name of AutoTVM's knob.
    axes : tuple of int
        Numbers of the axes that the split loop runs over; more than one if loops were fused.
    extent : int
        Extent of the loop before the split.
    lengths : tuple of int
        Tile factors except the outermost, which follows from the extent; outermost first.
    """

    step: int
    stage: str
    axes: tuple[int, ...]
    extent: int
    lengths: tuple[int, ...]

    @property
    def product(self) -> int:
        """Product of the inner lengths. An extent keeps the inner loops if it is a multiple of this."""
        return math.prod(self.lengths)


@dataclass(frozen=True)
class Program:
    """A measured schedule of a task, usually the fastest.

    Attributes
    ----------
    record, latency
        A line of an auto_scheduler or AutoTVM log, and the latency measured for it.
    out_splits, in_splits : tuple of Split
        Splits along the anchor's output and input channels.
    """

    record: str
    latency: Latency
    out_splits: tuple[Split, ...] = ()
    in_splits: tuple[Split, ...] = ()


@dataclass(frozen=True)
class Subgraph:
    """A fused primitive function at one call site.

    Attributes
    ----------
    name, op : str
        A name that is unique within the task, and the Relay operators joined by ``+``.
    layers : tuple of str
        Layers of the anchors; empty for a subgraph without an anchor, such as a pooling.
    algorithm : str, optional
        Algorithm of the anchor.
    """

    name: str
    op: str
    layers: tuple[str, ...]
    algorithm: Algorithm | None = None


@dataclass(frozen=True)
class Task:
    """A tuning task: one workload key on one target, and the subgraphs that share it.

    Attributes
    ----------
    workload_key : str
        TVM's key for the workload.
    flops : float
        Floating-point operations of one run, 0 if TVM cannot count them.
    out_axes, in_axes : tuple of int
        Numbers of the axes that run over the anchor's output and input channels.
    groups : int
        Groups of the anchor, if it is a convolution.
    axes : tuple of Axis
        Axes of the compute DAG in the order of ``tuning.ansor.axes``, or the template's knobs for AutoTVM.
    tvm_task : tvm.auto_scheduler.SearchTask or tvm.autotvm.task.Task, optional
        Required for measuring. None if the task was read from a file.
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
        """Number of times one inference runs the task."""
        return len(self.subgraphs)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of all subgraphs, in order."""
        return tuple(layer for subgraph in self.subgraphs for layer in subgraph.layers)

    @property
    def title(self) -> str:
        """Display name: the layers, or the operators if there are none."""
        return ", ".join(dict.fromkeys(self.layers)) or self.subgraphs[0].op


@dataclass(frozen=True)
class GroupMember:
    """The channels that one layer contributes to a channel group.

    Attributes
    ----------
    layer, side : str
        The layer, and which of its channels belong to the group.
    width, scale : int
        Number of those channels, and how many of them the layer loses per channel of the group.
    groups : int
        Groups of the layer, if it is a grouped convolution.
    """

    layer: str
    side: Side
    width: int
    scale: int
    groups: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be removed together.

    Attributes
    ----------
    root : str
        The layer that names the group.
    width, round_to : int
        Number of channels, and the number that it must be a multiple of.
    members : tuple of GroupMember
        Layers that produce or consume the channels.
    """

    root: str
    width: int
    round_to: int
    members: tuple[GroupMember, ...]


@dataclass(frozen=True)
class ChannelStep:
    """One pruning step of a channel group.

    Attributes
    ----------
    group : ChannelGroup
        The group before the step.
    next_width, reason
        Number of channels after the step, and an explanation of it for reports.
    stride : int
        Number of fitting widths that the step moves down.
    """

    group: ChannelGroup
    next_width: int
    reason: str
    stride: int = 1

    @property
    def width(self) -> int:
        """Number of channels before the step."""
        return self.group.width
