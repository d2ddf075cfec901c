# SPDX-License-Identifier: Apache-2.0
"""The same programs compiled by the LLVM of two installations of TVM, timed in turn on this machine.

    python benchmarks/llvm_versions.py
    python benchmarks/llvm_versions.py --other .venv-source/bin/python --mcpu znver4

Each network has random weights and is tuned here. The other Python, in which TVM has another LLVM, compiles
the fastest programs for the same target and, with --mcpu, for that processor. All libraries then run in this
process in turn. The last column is the time over that of the library that was compiled here.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import CACHE, ROOT, TRIALS, print_machine
from models import make_model
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.numerics import compare_outputs
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.target import host_target

NETWORKS = ("resnet18", "mobilenet_v2")
SHAPE = (1, 3, 224, 224)
ROUNDS = 5
TOLERANCE = 1e-3
# The option with which this file runs itself in the other installation.
COMPILE = "--compile"


def make_network(name: str) -> nn.Module:
    """Return a network with random weights."""
    torch.manual_seed(0)
    return make_model(f"torchvision/{name}", 3, 1000, SHAPE[-1]).eval()


def make_compiler(folder: Path, target: str | None = None) -> Compiler:
    """Return a compiler that keeps its records in ``folder``."""
    # Only the starters: an empty library, which belongs to this folder.
    tune = TuneConfig(trials=TRIALS, library=str(folder / "library"))
    config = PruneConfig(tune=tune, measure_repeats=100)
    return Compiler(config, SHAPE, folder, target, report=ConsoleReport())


def compile_table(name: str, table: Path, target: str, folder: Path) -> None:
    """Compile a network with the programs of a table, and print LLVM's version and the library's path."""
    import tvm

    with make_compiler(folder, target) as compiler:
        model = compiler.import_model(make_network(name))
        _, library = compiler.compile(model, TaskTable.load(table, same_version=False), "other")
    print(tvm.support.libinfo()["LLVM_VERSION"], library)


def compile_elsewhere(other: Path, name: str, table: Path, target: str, folder: Path) -> tuple[str, Path]:
    """Run ``compile_table`` in another installation, and return its version of LLVM and the library."""
    # Its libtvm has the functions of the plug-in.
    command = [str(other), str(Path(__file__).resolve()), COMPILE, name, str(table), target, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{other} could not compile {name} for {target}")
    version, library = done.stdout.splitlines()[-1].split()
    return version, Path(library)


def compare(name: str, other: Path, targets: list[str]) -> None:
    """Tune a network, and print a row for each of its libraries."""
    import tvm

    folder = CACHE / "llvm_versions" / name
    with make_compiler(folder) as compiler:
        candidate = compiler.tune(make_network(name))
        candidate.table.save(folder / "table.json")
        here = str(tvm.support.libinfo()["LLVM_VERSION"])
        libraries = {f"LLVM {here}, {targets[0]}": candidate.library}
        for number, target in enumerate(targets):
            version, library = compile_elsewhere(
                other, name, folder / "table.json", target, folder / f"other-{number}"
            )
            libraries[f"LLVM {version}, {target}"] = library
        data = sample_input(SHAPE)
        with torch.no_grad():
            expected = [candidate.model(torch.from_numpy(data)).numpy()]
        for label, library in libraries.items():
            compare_outputs(compiler.measurer.run_model(library, data), expected, TOLERANCE, label)
        latencies = compiler.time_libraries(libraries, ROUNDS)
    first = next(iter(latencies.values())).median
    for label, latency in latencies.items():
        spread = float(np.subtract(*np.percentile(latency.samples, [75, 25]))) / 2
        cells = [name, label, f"{latency.median * 1e3:.3f} ± {spread * 1e3:.3f}"]
        print(f"| {' | '.join(cells)} | {latency.median / first:.3f} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == [COMPILE]:
        name, table, target, folder = sys.argv[2:]
        compile_table(name, Path(table), target, Path(folder))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT / ".venv-source" / "bin" / "python"
    parser.add_argument(
        "--other", type=Path, default=default, help="Python of the other installation (default: .venv-source)"
    )
    parser.add_argument("--mcpu", help="a processor that only the other LLVM may know, such as znver4")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    args = parser.parse_args()
    if not args.other.exists():
        parser.error(f"there is no {args.other}: build TVM with tools/build_tvm.py, or pass --other")
    targets = [host_target()]
    if args.mcpu:
        targets.append(f"llvm -mcpu={args.mcpu} -num-cores {host_target().split()[-1]}")
    print_machine()
    print("| network | compiler and target | ms | over the first |\n|---|---|---|---|")
    for name in args.networks:
        compare(name, args.other, targets)


if __name__ == "__main__":
    main()
