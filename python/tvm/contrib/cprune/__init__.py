# SPDX-License-Identifier: Apache-2.0
"""CPrune: compiler-informed model pruning (Kim et al., ECCV 2022) as an extension of TVM.

Public names are imported on first use, so that processes that only measure programs never import torch.
"""

import os
from importlib import import_module
from typing import Any

# The single source of the version: pyproject.toml reads it from here.
__version__ = "0.1.0"

# Otherwise TVM downloads pre-tuned schedules on the first build and warns where there is no network.
os.environ.setdefault("TOPHUB_LOCATION", "NONE")

try:
    from tvm import auto_scheduler as _auto_scheduler  # noqa: F401
    from tvm import relay as _relay  # noqa: F401
except ImportError as error:
    import tvm as _tvm

    raise ImportError(
        f"CPrune needs a TVM with Relay and auto_scheduler (v0.13 to v0.19), but this is TVM "
        f"{_tvm.__version__} without them. Run `make tvm` in CPrune's repository to get TVM 0.17, or build "
        "TVM v0.19 from source."
    ) from error

_MODULES = {
    "CPruner": "pruner",
    "ConsoleReport": "loop.console",
    "PruneConfig": "config",
    "RecordTileFactors": "transform.tile_factors",
    "RelayModel": "types",
    "RoundChannels": "transform.rounding.round_channels",
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
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
