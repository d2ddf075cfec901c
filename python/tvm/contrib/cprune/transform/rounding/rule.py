# SPDX-License-Identifier: Apache-2.0
"""The type of a rule: what an operator does with the channels of its arguments."""

from collections.abc import Callable, Mapping
from typing import Protocol

from tvm import relay
from tvm.contrib.cprune.transform.rounding.channel_layout import ChannelLayout, Use


class RuleContext(Protocol):
    """What a rule can query about the nodes that a call reads."""

    @property
    def layouts(self) -> Mapping[relay.Expr, ChannelLayout | None]:
        """The channel layout of each node, None if it has no channels that may change."""

    def join(self, a: ChannelLayout, b: ChannelLayout) -> bool:
        """Make two layouts share their channels. Return False if that is not possible."""

    def is_parameter(self, node: relay.Expr) -> bool:
        """Return whether a node depends on parameters and constants only."""

    def is_adjustable(self, node: relay.Expr) -> bool:
        """Return whether the channels of a parameter expression can be changed in its parameters."""


# Returns EXACT for a call that requires its arguments without padding.
Rule = Callable[[RuleContext, relay.Call], Use]
