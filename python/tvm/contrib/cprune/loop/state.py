# SPDX-License-Identifier: Apache-2.0
"""The state of Algorithm 1 between two iterations, as the journal's events imply it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Event = dict[str, Any]
# Events whose seconds are spent on pruning.
PRUNING_EVENTS = ("candidate", "plan", "staircase", "accepted", "stopped")


@dataclass(frozen=True)
class LoopState:
    """Everything the next iteration depends on, except the accepted model and its table.

    Attributes
    ----------
    iteration
        Number of candidates decided.
    accuracy
        Validation accuracy of the last accepted model, in [0, 1].
    speedup
        Latency of the unpruned model over that of the last accepted one, both timed in one session.
    seconds
        Time spent on pruning, such as on candidates.
    checkpoint
        Name of the last accepted model's checkpoint; "" before the first acceptance.
    dropped
        Roots of the channel groups excluded for good, because pruning them cost too much accuracy or gave a
        model that cannot be compiled or run.
    separated
        Roots of the groups to be pruned one by one, because pruning them together cost too much accuracy.
    limits
        Widths that cost too much accuracy, by root of the group; later steps stay above them.
    reached
        Smallest width tried and found too slow since the last acceptance, by root of the group. Groups with
        ``limits`` keep theirs: few widths are left to them, and they would be tried after each acceptance.
    missed
        Widths of longer steps that cost too much accuracy since the last acceptance, by root of the group;
        the steps that follow stay above them.
    stride
        Number of fitting widths that the next step moves down.
    """

    iteration: int = 0
    accuracy: float = 0.0
    speedup: float = 1.0
    seconds: float = 0.0
    checkpoint: str = ""
    dropped: frozenset[str] = frozenset()
    separated: frozenset[str] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict)
    reached: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)
    stride: int = 1

    def after(self, event: Event) -> "LoopState":
        """Return the state after ``event``."""
        if event["event"] == "baseline":
            return replace(self, accuracy=event["accuracy_val"])
        if event["event"] not in PRUNING_EVENTS:
            return self
        state = replace(self, seconds=self.seconds + event.get("seconds", 0.0))
        if event["event"] == "candidate":
            state = replace(state, iteration=self.iteration + 1)
        if event.get("accepted", False):
            return replace(
                state,
                accuracy=event["accuracy_val"],
                speedup=event["speedup"],
                checkpoint=event["checkpoint"],
                reached={
                    root: width
                    for root, width in self.reached.items()
                    if root in self.limits and root not in event.get("widths", {})
                },
                missed={},
                stride=2 * event.get("stride", 1) if event.get("spare", False) else 1,
            )
        if event["event"] != "candidate" or event["verdict"] == "measured":  # one is accepted later
            return state
        widths = {root: new_width for root, (_, new_width) in event["widths"].items()}
        if event.get("stride", 1) > 1:  # the smallest step comes next
            missed = widths if event["verdict"] == "accuracy" else {}
            return replace(state, stride=1, missed={**self.missed, **missed})
        if event["verdict"] == "latency":
            return replace(state, reached={**self.reached, **widths})
        state = replace(state, stride=1)
        retry = event["verdict"] == "accuracy" and event.get("retry_smaller", False)
        if retry and len(widths) > 1:
            return replace(state, separated=self.separated | set(widths))
        if retry and not self.limits.keys() & widths.keys():
            return replace(state, limits={**self.limits, **widths})
        return replace(state, dropped=self.dropped | set(widths))
