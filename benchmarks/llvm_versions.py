# SPDX-License-Identifier: Apache-2.0
"""The same programs compiled by the LLVM of two installations of TVM, timed in turn on this machine.

    python benchmarks/llvm_versions.py
    python benchmarks/llvm_versions.py --other .venv-source/bin/python --mcpu znver4

Each network has random weights and is tuned here; later calls use the same programs. This Python and the
other one, in which TVM has another LLVM, compile them for this machine's target; with --mcpu, the other one
also compiles them for that processor. All libraries then run in turn. The last column is the time over that
of the first library.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import tvm
from common import CACHE, ROOT, TRIALS, print_machine, spread
from models import make_model
from tvm.contrib.cprune.compiler import Compiler, Unbuilt
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.numerics import compare_outputs
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.target import host_target, host_threads

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
    # The starters are the only donors: the library is an empty folder of this benchmark.
    tune = TuneConfig(trials=TRIALS, library=str(folder / "library"))
    config = PruneConfig(tune=tune, measure_repeats=100)
    return Compiler(config, SHAPE, folder, target, report=ConsoleReport())


def compile_table(name: str, table: Path, target: str, folder: Path) -> None:
    """Compile a network with the programs of a table, and print LLVM's version and the library's path."""
    with make_compiler(folder, target) as compiler:
        model = make_network(name)
        relay_model, donor = compiler.import_model(model), TaskTable.load(table, same_version=False)
        # Without searches that would replace programs.
        programs = compiler.tuner.transplant(relay_model, donor, improve=False)
        library = compiler.build(Unbuilt(model, relay_model, programs)).library
    print(tvm.support.libinfo()["LLVM_VERSION"], library)


def compile_with(python: Path, name: str, table: Path, target: str, folder: Path) -> tuple[str, Path]:
    """Run ``compile_table`` in an installation, and return its version of LLVM and the library."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(python), str(Path(__file__).resolve()), COMPILE, name, str(table), target, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} could not compile {name} for {target}")
    version, library = done.stdout.splitlines()[-1].split()
    return version, Path(library)


def compare(name: str, builds: list[tuple[Path, str]]) -> None:
    """Tune a network unless an earlier call did, and print a row for each build: a Python and a target."""
    folder = CACHE / "llvm_versions" / name
    table, model, data = folder / "table.json", make_network(name), sample_input(SHAPE)
    with torch.no_grad():
        expected = [model(torch.from_numpy(data)).numpy()]
    with make_compiler(folder) as compiler:
        if not table.exists():
            compiler.tune(model).table.save(table)
        libraries = {}
        for number, (python, target) in enumerate(builds):
            version, library = compile_with(python, name, table, target, folder / f"build-{number}")
            label = f"LLVM {version}, {target}"
            compare_outputs(compiler.measurer.run_model(library, data), expected, TOLERANCE, label)
            libraries[label] = library
        if len(libraries) < len(builds):
            raise SystemExit(f"expected {len(builds)} different compilers, got {', '.join(libraries)}")
        latencies = compiler.time_libraries(libraries, ROUNDS)
    first = next(iter(latencies.values())).median
    for label, latency in latencies.items():
        cells = [name, label, f"{latency.median * 1e3:.3f} ± {spread(list(latency.samples)) * 1e3:.3f}"]
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
    builds = [(Path(sys.executable), host_target()), (args.other, host_target())]
    if args.mcpu:
        builds.append((args.other, f"llvm -mcpu={args.mcpu} -num-cores {host_threads()}"))
    print_machine()
    print("| network | compiler and target | ms | over the first |\n|---|---|---|---|")
    for name in args.networks:
        compare(name, builds)


if __name__ == "__main__":
    main()
