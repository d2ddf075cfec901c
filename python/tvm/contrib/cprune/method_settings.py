# SPDX-License-Identifier: Apache-2.0
"""The pruning methods by name, and the settings that each of them uses."""

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from tvm.contrib.cprune.checks import SettingError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MethodName = Literal["cprune", "progressive", "knapsack", "netadapt", "uniform", "global"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
# The methods that use a setting. All methods use a setting that is not listed.
USED_BY: dict[str, tuple[MethodName, ...]] = {
    **dict.fromkeys(
        ("alpha", "beta", "step_rule", "retry_smaller", "partial_fit", "larger_steps", "hopeless"),
        ("cprune",),
    ),
    **dict.fromkeys(
        ("accuracy_requirement", "latency_floor", "max_iterations", "max_seconds"),
        ("cprune", "progressive", "netadapt"),
    ),
    "speedup_goal": ("cprune", "progressive", "netadapt", "knapsack"),
    "macs_goal": ("uniform", "global"),
    "round_widths": ("uniform",),
    "latency_cut": ("netadapt",),
    "latency_goal": ("knapsack",),
}


def unused_settings(config: "type[DataclassInstance]", method: str) -> dict[str, Any]:
    """Return the settings in ``config`` that a method does not use, with their defaults."""
    return {f.name: f.default for f in fields(config) if method not in USED_BY.get(f.name, METHODS)}


def used_settings(config: Any) -> dict[str, Any]:
    """Return the name of the configured method and its settings, without those of tuning, as JSON values."""
    omitted = {"method", "tune", *unused_settings(type(config), config.method)}
    used = {name: value for name, value in asdict(config).items() if name not in omitted}
    settings: dict[str, Any] = json.loads(json.dumps({"name": config.method, **used}))
    return settings


def check_method(config: Any) -> None:
    """Check that the goal of the configured method is given, and no setting that it does not use.

    Raises
    ------
    SettingError
        For the first setting that differs from its default without any effect, or the missing goal.
    """
    method = config.method
    for name, default in unused_settings(type(config), method).items():
        value = getattr(config, name)
        if value != default:
            raise SettingError(name, value, f"{default}: the method {method} does not use it")
    if method in USED_BY["macs_goal"] and not config.macs_goal:
        raise SettingError("macs_goal", config.macs_goal, f"more than 0: the method {method} needs a goal")
    if method == "knapsack" and config.latency_goal and config.speedup_goal:
        expected = (
            f"0, as there is a speedup of {config.speedup_goal:g}: the method {method} needs one budget"
        )
        raise SettingError("latency_goal", config.latency_goal, expected)
    if method == "knapsack" and not (config.latency_goal or config.speedup_goal):
        expected = f"more than 0: the method {method} needs this budget or a speedup"
        raise SettingError("latency_goal", config.latency_goal, expected)
