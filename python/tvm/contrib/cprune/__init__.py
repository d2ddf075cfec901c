# SPDX-License-Identifier: Apache-2.0
"""CPrune: compiler-informed model pruning (Kim et al., ECCV 2022) as an extension of TVM.

The names below are loaded when they are first used, so that a process that only measures programs never
imports torch.
"""

import os
from importlib import import_module
from typing import Any

# Without this TVM tries to download schedules at the first build, and complains where there is no network.
os.environ.setdefault("TOPHUB_LOCATION", "NONE")

try:
    from tvm import auto_scheduler as _auto_scheduler  # noqa: F401
    from tvm import relay as _relay  # noqa: F401
except ImportError as error:
    import tvm as _tvm

    raise ImportError(
        f"CPrune needs a TVM with Relay and auto_scheduler (v0.13 to v0.19); this is TVM "
        f"{_tvm.__version__} without them. Run `make tvm` in CPrune's repository for a wheel of TVM 0.17, "
        "or build TVM v0.19 from source."
    ) from error

_HOME = {
    "CPruner": "pruner",
    "PruneConfig": "config",
    "RelayModel": "types",
    "RoundChannels": "transform.rounding",
    "TaskTable": "table",
    "Tracker": "measuring.tracker",
    "Training": "loop.training",
    "TuneConfig": "config",
    "extract_from_program": "tasks",
    "from_onnx": "importers.from_onnx",
    "from_torch": "importers.from_torch",
    "load_masks": "nni.masks",
    "profile_widths": "profile",
    "save_masks": "nni.masks",
    "speedup": "nni.masks",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
