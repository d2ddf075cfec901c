# SPDX-License-Identifier: Apache-2.0
"""TVM's RPC tracker, which assigns devices."""

import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tvm.rpc import base

from tvm.contrib.cprune.types import CPruneError

# Seconds to wait for each response of the tracker.
RESPONSE_TIMEOUT = 3.0

# Help of the option --tracker.
TRACKER_HELP = (
    "RPC tracker as host:port; with --device-key alone, the environment variables TVM_TRACKER_HOST and "
    "TVM_TRACKER_PORT give the address"
)


@dataclass(frozen=True)
class Tracker:
    """An RPC tracker and the devices to request from it.

    Attributes
    ----------
    key
        Key under which the devices' servers were started.
    wait
        Seconds to wait before reporting that no device is available. Measuring then continues to wait.
    cooldown
        Seconds to pause after each program, so that the device cools down.
    """

    host: str
    port: int
    key: str
    wait: float = 10
    cooldown: float = 0

    @staticmethod
    def parse(address: str | None, key: str | None, **options: float) -> "Tracker":
        """Return the tracker at ``address``.

        Parameters
        ----------
        address
            ``host:port``; None reads TVM_TRACKER_HOST and TVM_TRACKER_PORT.
        options
            Further attributes.

        Raises
        ------
        CPruneError
            If the address or the key is missing or malformed.
        """
        host, port = os.environ.get("TVM_TRACKER_HOST", ""), os.environ.get("TVM_TRACKER_PORT", "")
        text = address or (f"{host}:{port}" if host and port else "")
        if not text:
            raise CPruneError(
                "no tracker given: pass --tracker host:port, or set TVM_TRACKER_HOST and TVM_TRACKER_PORT"
            )
        name, _, number = text.rpartition(":")
        if not name or not number.isdecimal() or not 0 < int(number) < 65536:
            raise CPruneError(f"invalid tracker address {text!r}: expected host:port such as 127.0.0.1:9190")
        if not key:
            raise CPruneError("no device key given: pass --device-key, the key of the devices' RPC servers")
        return Tracker(name, int(number), key, **options)

    @staticmethod
    def from_options(address: str | None, key: str | None, **options: float) -> "Tracker | None":
        """Return the tracker that command-line options select, None if they give neither address nor key.

        Raises
        ------
        CPruneError
            As ``parse`` and ``require_device``.
        """
        if not address and not key:
            return None
        tracker = Tracker.parse(address, key, **options)
        tracker.require_device()
        return tracker

    @property
    def address(self) -> str:
        """The tracker's ``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def warning(self) -> str:
        """A security warning if other machines can reach the tracker, else ""."""
        if self.host in ("localhost", "::1") or self.host.startswith("127."):
            return ""
        return (
            f"the tracker at {self.address} does not run on 127.0.0.1: it has no authentication, so anyone "
            "who can reach it can run code on its devices"
        )

    def devices(self) -> tuple[int, int]:
        """Return how many devices of the key are registered, and how many of them are free.

        Raises
        ------
        CPruneError
            If no tracker responds at the address.
        """
        summary = self._summary()
        return _count_keys(summary)[self.key], int(summary["queue_info"].get(self.key, {}).get("free", 0))

    def require_device(self) -> None:
        """Check that a device of the key is registered.

        Raises
        ------
        CPruneError
            If no tracker responds at the address, or it has no such device. The message lists its keys.
        """
        keys = _count_keys(self._summary())
        if not keys[self.key]:
            others = ", ".join(f"{key} ({count})" for key, count in sorted(keys.items())) or "none"
            raise CPruneError(
                f"the tracker at {self.address} has no device with key {self.key!r}; "
                f"registered devices: {others}"
            )

    def _summary(self) -> dict[str, Any]:
        try:
            with socket.create_connection((self.host, self.port), timeout=RESPONSE_TIMEOUT) as connection:
                summary: dict[str, Any] = ask(connection, [base.TrackerCode.SUMMARY])
        except (OSError, ValueError) as error:
            raise CPruneError(f"no tracker responds at {self.address}: {error}") from None
        return summary


def ask(connection: socket.socket, message: list[Any]) -> Any:
    """Send a request to a tracker over a new connection, and return what it answers.

    ``tvm.rpc.client.TrackerSession`` has no timeout; this function has that of the connection.

    Raises
    ------
    OSError
        If the server is no tracker, does not answer in time, or rejects the request.
    """
    connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
    (magic,) = struct.unpack("<i", base.recvall(connection, 4))
    if magic != base.RPC_TRACKER_MAGIC:
        raise OSError("the server there is not an RPC tracker")
    base.sendjson(connection, message)
    code, answer = base.recvjson(connection)
    if code != base.TrackerCode.SUCCESS:
        raise OSError(f"the tracker rejected the request: {answer}")
    return answer


def _count_keys(summary: dict[str, Any]) -> Counter[str]:
    """Return the number of servers per key in a tracker's summary."""
    return Counter(server["key"].removeprefix("server:") for server in summary["server_info"])
