# SPDX-License-Identifier: Apache-2.0
"""The two tuners behind one interface: what the table, the loop and the commands need of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.contrib.cprune import structure
from tvm.contrib.cprune.tuning import autotvm, search, transplant
from tvm.contrib.cprune.types import Split, Task, TunerName


@dataclass(frozen=True)
class Tuner:
    """A tuner's functions.

    Attributes
    ----------
    layout
        What convolutions on CPUs are to be laid out like.
    channel_splits, transplant, fits, search
        See ``structure.channel_splits``, ``tuning.transplant`` and ``tuning.search``.
    """

    layout: str
    channel_splits: Callable[[Task, str], tuple[tuple[Split, ...], tuple[Split, ...]]]
    transplant: Callable[..., list[Any]]
    fits: Callable[[str, Task, Task], bool]
    search: Callable[..., int]


TUNERS: dict[TunerName, Tuner] = {
    "ansor": Tuner("NHWC", structure.channel_splits, transplant.transplant, transplant.fits, search.search),
    "autotvm": Tuner("NCHW", autotvm.channel_splits, autotvm.transplant, autotvm.fits, autotvm.search),
}


def tuner_of(task: Task) -> Tuner:
    """Return the tuner whose task this is."""
    return TUNERS[task.tuner]
