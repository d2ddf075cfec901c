# SPDX-License-Identifier: Apache-2.0
"""Command-line tools around CPrune. To prune a model, use tutorials/frontend/main.py.

python -m tvm.contrib.cprune <command> --help
"""

import os
import sys
from importlib import import_module

COMMANDS = {
    "deploy": "build the pruned model of a run for a device, test it there and write a bundle",
    "doctor": "check the installation, the compiler and the devices",
    "library": "list, export or import the programs that searches start from",
    "profile": "measure the tuned program of a layer at every width",
    "report": "write the HTML report of a run, or compare several runs",
    "round": "round the channels of a pruned model to widths that fit the tuned programs of the unpruned one",
    "tune": "tune, build, export and time a network",
}


def main(arguments: list[str] | None = None) -> int:
    from tvm.contrib.cprune.options import ArgumentParser
    from tvm.contrib.cprune.targets.target import host_threads
    from tvm.contrib.cprune.types import CPruneError

    # Worker processes inherit this. TVM's default is half of the cores.
    os.environ.setdefault("TVM_NUM_THREADS", str(host_threads()))
    arguments = sys.argv[1:] if arguments is None else arguments
    prog = "python -m tvm.contrib.cprune"
    description, _, _ = __doc__.partition("\n")
    parser = ArgumentParser(prog=prog, description=description, epilog="Every command has its own --help.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, add_help=False)
        # Import only the selected command: others may need packages that are not installed.
        if arguments[:1] == [name]:
            import_module(f"tvm.contrib.cprune.commands.{name}").add_arguments(command)
    options = parser.parse_args(arguments)
    try:
        import_module(f"tvm.contrib.cprune.commands.{options.command}").run(options)
    except CPruneError as error:
        print(f"{prog} {options.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{prog} {options.command}: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog} {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
