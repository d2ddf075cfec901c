# SPDX-License-Identifier: Apache-2.0
"""python -m tvm.contrib.cprune <command>: CPrune's parts by themselves. Pruning is
tutorials/frontend/main.py."""

import argparse
import os
import sys
from importlib import import_module
from typing import NoReturn

COMMANDS = {
    "deploy": "build a run's model for a device, check it there, and leave a bundle",
    "doctor": "check everything between here and a measured program",
    "profile": "measure a layer's tuned program at every width",
    "round": "snap a pruned model's channels to widths that tuned programs fit",
    "tune": "tune, build, export and time a network",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(arguments: list[str] | None = None) -> int:
    from tvm.contrib.cprune.targets.target import host_threads
    from tvm.contrib.cprune.types import CPruneError

    # The measuring processes inherit this; TVM would take half of the cores.
    os.environ.setdefault("TVM_NUM_THREADS", str(host_threads()))
    given = sys.argv[1:] if arguments is None else arguments
    prog = "python -m tvm.contrib.cprune"
    parser = _Parser(prog=prog, description=__doc__, epilog="Each command has a --help of its own.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, add_help=False)
        # Only the command that was asked for is imported: each needs other packages.
        if given[:1] == [name]:
            import_module(f"tvm.contrib.cprune.commands.{name}").add_arguments(command)
    options = parser.parse_args(given)
    try:
        import_module(f"tvm.contrib.cprune.commands.{options.command}").run(options)
    except CPruneError as error:
        print(f"{prog} {options.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{prog} {options.command}: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog} {options.command}: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
