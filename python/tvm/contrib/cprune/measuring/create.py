# SPDX-License-Identifier: Apache-2.0
"""The choice between measuring on this machine and on RPC devices."""

from collections.abc import Callable
from typing import Any

from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.rpc_pool import RpcMeasurer
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.targets.presets import Preset
from tvm.contrib.cprune.types import CPruneError


def create_measurer(
    config: TuneConfig,
    preset: Preset,
    tracker: Tracker | None = None,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Measurer:
    """Return a measurer for a preset's programs.

    Parameters
    ----------
    tracker
        Provides the devices; None measures on this machine.
    report
        Receives events of RPC devices; see ``RpcMeasurer``.

    Raises
    ------
    CPruneError
        If the preset's programs do not run on this machine and ``tracker`` is None, or as ``RpcMeasurer``.
    """
    if tracker is not None:
        return RpcMeasurer(config, preset, tracker, report)
    if not preset.runs_here:
        raise CPruneError(
            f"programs for {preset.name} do not run on this machine's CPU: "
            "pass a tracker and the key of devices that run them"
        )
    return LocalMeasurer(config)
