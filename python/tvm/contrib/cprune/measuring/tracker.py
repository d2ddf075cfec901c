# SPDX-License-Identifier: Apache-2.0
"""Where devices are asked for: TVM's RPC tracker."""

import os
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tvm.rpc.client import TrackerSession

from tvm.contrib.cprune.types import CPruneError

# Seconds for the tracker to accept a connection.
CONNECT = 3.0


@dataclass(frozen=True)
class Tracker:
    """Where devices are asked for.

    Attributes
    ----------
    key
        Which of the tracker's devices.
    wait
        Seconds to wait for a free device before saying so, and waiting on.
    cooldown
        Seconds that a device rests after each program.
    """

    host: str
    port: int
    key: str
    wait: float = 10
    cooldown: float = 0

    @staticmethod
    def parse(address: str | None, key: str | None, **options: float) -> "Tracker":
        """Return the tracker at ``host:port``, or the one that TVM_TRACKER_HOST and TVM_TRACKER_PORT name.

        Raises
        ------
        CPruneError
            If the address or the key is missing or malformed.
        """
        host, port = os.environ.get("TVM_TRACKER_HOST", ""), os.environ.get("TVM_TRACKER_PORT", "")
        text = address or (f"{host}:{port}" if host and port else "")
        if not text:
            raise CPruneError(
                "no tracker: give --tracker host:port, or set TVM_TRACKER_HOST and TVM_TRACKER_PORT"
            )
        name, _, number = text.rpartition(":")
        if not name or not number.isdecimal() or not 0 < int(number) < 65536:
            raise CPruneError(f"the tracker's address is {text!r}, expected host:port such as 127.0.0.1:9190")
        if not key:
            raise CPruneError("no device key: give --device-key, as the devices' servers were started with")
        return Tracker(name, int(number), key, **options)

    @staticmethod
    def asked_for(address: str | None, key: str | None, **options: float) -> "Tracker | None":
        """Return the tracker of a command line, or None where neither is given; it has a device of the key.

        Raises
        ------
        CPruneError
            As ``parse`` and ``require``.
        """
        if not address and not key:
            return None
        tracker = Tracker.parse(address, key, **options)
        tracker.require()
        return tracker

    @property
    def warning(self) -> str:
        """What to say where others can reach the tracker, or ""."""
        if self.host in ("localhost", "::1") or self.host.startswith("127."):
            return ""
        return (
            f"the tracker at {self.host}:{self.port} is not on 127.0.0.1: it has no authentication, and who "
            "reaches it can run code on its devices"
        )

    def devices(self) -> tuple[int, int]:
        """Return how many devices of the key the tracker knows, and how many of them are free.

        Raises
        ------
        CPruneError
            If there is no tracker at the address.
        """
        found = self._summary()
        return _count(found)[self.key], int(found["queue_info"].get(self.key, {}).get("free", 0))

    def require(self) -> None:
        """Make sure that there is a device of the key.

        Raises
        ------
        CPruneError
            If there is no tracker at the address, or it has no such device; the message says which it has.
        """
        keys = _count(self._summary())
        if not keys[self.key]:
            others = ", ".join(f"{key} ({count})" for key, count in sorted(keys.items())) or "none at all"
            raise CPruneError(
                f"the tracker at {self.host}:{self.port} has no device of key {self.key!r}; it has {others}"
            )

    def _summary(self) -> dict[str, Any]:
        try:
            # TVM would go on trying for a minute.
            socket.create_connection((self.host, self.port), timeout=CONNECT).close()
            session = TrackerSession((self.host, self.port))
            found: dict[str, Any] = session.summary()
            session.close()
        except (OSError, RuntimeError) as error:
            raise CPruneError(f"no tracker answers at {self.host}:{self.port}: {error}") from None
        return found


def _count(summary: dict[str, Any]) -> Counter[str]:
    """Return how many servers a tracker's summary has, by key."""
    return Counter(each["key"].removeprefix("server:") for each in summary["server_info"])
