# SPDX-License-Identifier: Apache-2.0
"""Pruned variants of a network with equal multiply-accumulates, for ``motivation.py``."""

import math
import random
from typing import NamedTuple

from torch import nn

from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.macs import MacCounter
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.types import ChannelGroup, ChannelStep

# Widths are multiples of this. Before scaling, a variant keeps at least this share of each group's channels.
MULTIPLE, SMALLEST_SHARE = 8, 0.25
# Largest difference between the multiply-accumulates of two variants, as a fraction of the goal.
TOLERANCE = 0.01
# Bisections of the scale, and draws until the variants are given up.
BISECTIONS, DRAWS = 12, 10_000


class Variant(NamedTuple):
    """A pruned network: its name, its multiply-accumulates, and its width by root of the channel group."""

    name: str
    macs: int
    widths: dict[str, int]


def draw_variants(counter: MacCounter, goal: float, count: int) -> list[Variant]:
    """Draw variants whose multiply-accumulates are a share of the unpruned network's.

    Parameters
    ----------
    goal
        The share. That of a variant may differ by half of ``TOLERANCE``.

    Raises
    ------
    SystemExit
        If there are too few such variants.
    """
    generator, variants = random.Random(0), list[Variant]()
    for _ in range(DRAWS):
        widths = draw_widths(counter, goal, generator)
        if widths and all(widths != variant.widths for variant in variants):
            variants.append(Variant(f"{len(variants) + 1:02}", counter.count(widths), widths))
        if len(variants) == count:
            return variants
    raise SystemExit(f"found {len(variants)} of {count} variants with {goal} of the multiply-accumulates")


def draw_widths(counter: MacCounter, goal: float, generator: random.Random) -> dict[str, int] | None:
    """Draw a share for each group, and scale all shares to meet the goal; None if rounding prevents that."""
    groups, total = counter.groups.groups, counter.count({})
    shares = {group.root: generator.uniform(SMALLEST_SHARE, 1) for group in groups}
    low, high = 0.0, 1 / SMALLEST_SHARE
    for _ in range(BISECTIONS):
        scale = (low + high) / 2
        widths = {group.root: _rounded(group, scale * shares[group.root]) for group in groups}
        share = counter.count(widths) / total
        if abs(share - goal) <= TOLERANCE / 2 * goal:
            return widths
        low, high = (scale, high) if share < goal else (low, scale)
    return None


def _rounded(group: ChannelGroup, share: float) -> int:
    unit = math.lcm(MULTIPLE, group.round_to)
    return min(max(round(share * group.width / unit) * unit, unit), group.width)


def make_variant(variant: Variant, prunable: PrunableModel) -> nn.Module:
    """Return the network at the widths of a variant."""
    groups = [group for group in prunable.groups().groups if variant.widths[group.root] < group.width]
    steps = [ChannelStep(group, variant.widths[group.root], "") for group in groups]
    return prunable.shrink(steps, lambda group: score(group, "l1", 0)).model
