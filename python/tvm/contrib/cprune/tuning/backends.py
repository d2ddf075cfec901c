# SPDX-License-Identifier: Apache-2.0
"""The two tuners behind one interface: what the table, the loop and the commands need of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.contrib.cprune.tuning.ansor import resize, search, steps, transplant
from tvm.contrib.cprune.tuning.autotvm import search as autotvm_search
from tvm.contrib.cprune.tuning.autotvm import task as autotvm
from tvm.contrib.cprune.types import Side, Split, Task, TunerName


@dataclass(frozen=True)
class TuningBackend:
    """A tuner's functions.

    Attributes
    ----------
    layout
        What convolutions on CPUs are to be laid out like.
    channel_splits, transplant, fits, search
        See ``structure.channel_splits``, ``tuning.transplant`` and ``tuning.search``.
    width_of, at_width
        See ``tuning.rescale``.
    """

    layout: str
    channel_splits: Callable[[Task, str], tuple[tuple[Split, ...], tuple[Split, ...]]]
    transplant: Callable[..., list[Any]]
    fits: Callable[[str, Task, Task], bool]
    search: Callable[..., int]
    width_of: Callable[[Task, Side], int]
    at_width: Callable[[Task, int, Side], Task]


BACKENDS: dict[TunerName, TuningBackend] = {
    "ansor": TuningBackend(
        layout="NHWC",
        channel_splits=steps.channel_splits,
        transplant=transplant.transplant,
        fits=transplant.fits,
        search=search.search,
        width_of=resize.width_of,
        at_width=resize.at_width,
    ),
    "autotvm": TuningBackend(
        layout="NCHW",
        channel_splits=autotvm.channel_splits,
        transplant=autotvm.transplant,
        fits=autotvm.fits,
        search=autotvm_search.search,
        width_of=autotvm.width_of,
        at_width=autotvm.at_width,
    ),
}


def backend_of(task: Task) -> TuningBackend:
    """Return the tuner whose task this is."""
    return BACKENDS[task.tuner]
