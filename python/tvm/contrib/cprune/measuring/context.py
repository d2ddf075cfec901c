# SPDX-License-Identifier: Apache-2.0
"""What a measured latency is valid for."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import CPruneError

_FILE = "context.json"


@dataclass(frozen=True)
class RecordContext:
    """The conditions under which programs were measured. Workload keys do not contain them.

    Attributes
    ----------
    target
        TVM target that the programs were compiled for.
    threads
        Threads that ran them; 0 means the device's default.
    cold_weights
        Whether weights were flushed from the cache before each run.
    device
        Key of the RPC devices, or this machine's processor (see ``local_device``).
    tvm
        Version of TVM.
    version
        Version of the compute definitions and of the state of the caches.
    """

    target: str
    threads: int
    cold_weights: bool
    device: str
    tvm: str = tvm.__version__
    version: int = 5

    @classmethod
    def of(cls, target: str, tune: TuneConfig, tracker: Tracker | None) -> "RecordContext":
        """Return the context of measurements on the devices of a tracker, or on this machine."""
        threads = tune.threads or (0 if tracker else host_threads())
        return cls(target, threads, tune.cold_weights, tracker.key if tracker else local_device())

    @property
    def conditions(self) -> dict[str, Any]:
        """What the settings of a run leave open: a run with the same settings may have other conditions."""
        return {
            "device": self.device,
            "threads": self.threads,
            "tvm": self.tvm,
            "records_version": self.version,
        }

    @property
    def folder_name(self) -> str:
        """A short name that is unique for the context."""
        checksum = zlib.crc32(json.dumps(asdict(self), sort_keys=True).encode())
        weights = "cold" if self.cold_weights else "warm"
        return f"{self.target.split()[0]}-{self.threads}-threads-{weights}-{checksum:08x}"

    def save(self, folder: Path) -> None:
        """Write ``context.json`` beside the records in ``folder``."""
        write_text(folder / _FILE, json.dumps(asdict(self), indent=1))

    def require(self, folder: Path, purpose: str) -> None:
        """Check that the records in ``folder`` were measured in this context.

        Raises
        ------
        CPruneError
            If they were not, or their context is unknown.
        """
        try:
            stored = json.loads((folder / _FILE).read_text())
        except (OSError, ValueError):
            raise CPruneError(f"{folder} has no {_FILE}: measure the records of {purpose} again") from None
        expected = asdict(self)
        pairs = [
            f"{name} {stored.get(name)!r}, expected {value!r}"
            for name, value in expected.items()
            if stored.get(name) != value
        ]
        if pairs:
            raise CPruneError(f"the records of {purpose} in {folder} have {'; '.join(pairs)}: measure again")


def local_device() -> str:
    """Return the name of this machine as a device, with its processor's model if that is known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"local ({model})" if model else "local"
