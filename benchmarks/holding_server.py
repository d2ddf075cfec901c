# SPDX-License-Identifier: Apache-2.0
"""An RPC server that holds each timed run for a fixed time, as a slow device does.

    python benchmarks/holding_server.py 127.0.0.1:9190 key 0.05

Its function ``cprune.hold`` is called before each timed run of a program. From SIGUSR1 on it holds each run
twenty times as long, in the sessions that begin after it.
"""

import argparse
import signal
import socket
import time

from tvm.rpc import server

import tvm


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tracker", help="host:port")
    parser.add_argument("key")
    parser.add_argument("seconds", type=float, help="to hold each run")
    options = parser.parse_args()
    host, port = options.tracker.rsplit(":", 1)

    def hold(*_: object) -> None:
        time.sleep(options.seconds)

    def slow_down(*_: object) -> None:
        options.seconds *= 20

    tvm.register_func("cprune.hold", hold)
    signal.signal(signal.SIGUSR1, slow_down)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1)
    own = listening.getsockname()[1]
    server._listen_loop(listening, own, options.key, (host, int(port)), None, "127.0.0.1")


if __name__ == "__main__":
    main()
