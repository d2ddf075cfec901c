# SPDX-License-Identifier: Apache-2.0
"""An RPC server that holds each timed run for a fixed time, as a slow device does.

    python benchmarks/holding_server.py 127.0.0.1:9190 key 0.05

Its function ``cprune.hold`` is called before each timed run of a program.
"""

import argparse
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
    tvm.register_func("cprune.hold", lambda *_: time.sleep(options.seconds))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1)
    own = listening.getsockname()[1]
    server._listen_loop(listening, own, options.key, (host, int(port)), None, "127.0.0.1")


if __name__ == "__main__":
    main()
