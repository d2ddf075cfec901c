# SPDX-License-Identifier: Apache-2.0
"""What a method that decides widths by itself can do next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Try:
    """Build, time and evaluate a candidate.

    Attributes
    ----------
    title
        What the candidate is, for reports.
    widths
        New number of channels by root of the group.
    search
        Search for faster programs than the transplants, as at the end of the run.
    train
        Train the candidate for a short time before it is evaluated.
    accept
        Accept the candidate without a comparison with others.
    required
        Accept the candidate if it is faster than the last accepted model and has at least this accuracy. One
        that is not faster is not trained. One that lacks accuracy after the short training is trained like
        the final model before it is rejected.
    facts
        What else the journal's entry has.
    """

    title: str
    widths: Mapping[str, int]
    search: bool = False
    train: bool = False
    accept: bool = False
    required: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Accept:
    """Accept the candidate of an earlier iteration."""

    iteration: int
    reason: str


@dataclass(frozen=True)
class Stop:
    """Prune no further."""

    reason: str


Action = Try | Accept | Stop
