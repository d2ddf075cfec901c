# SPDX-License-Identifier: Apache-2.0
"""An RPC server that simulates a slow device: it holds each timed run for a fixed time.

    python benchmarks/holding_server.py 127.0.0.1:9190 key 0.05

It registers a function ``cprune.hold``, to be called before each timed run of a program. The signal SIGUSR1
makes the hold twenty times as long in sessions that start afterwards.
"""

import argparse
import signal
import socket
import time

from tvm.rpc import server

import tvm

SLOWDOWN = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tracker", help="host:port of the tracker")
    parser.add_argument("key", help="key under which to register")
    parser.add_argument("seconds", type=float, help="seconds to hold each run")
    options = parser.parse_args()
    host, port = options.tracker.rsplit(":", 1)

    def hold(*_: object) -> None:
        time.sleep(options.seconds)

    def slow_down(*_: object) -> None:
        options.seconds *= SLOWDOWN

    tvm.register_func("cprune.hold", hold)
    signal.signal(signal.SIGUSR1, slow_down)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1)
    own_port = listening.getsockname()[1]
    server._listen_loop(listening, own_port, options.key, (host, int(port)), None, "127.0.0.1")


if __name__ == "__main__":
    main()
