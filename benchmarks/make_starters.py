# SPDX-License-Identifier: Apache-2.0
"""Make the starter library for AVX2 or AVX-512: programs that every installation contains.

    python benchmarks/make_starters.py
    python benchmarks/make_starters.py --trials 64 --networks resnet18 vgg16
    python benchmarks/make_starters.py --networks mobilenet_v2 --keep --target "llvm -mcpu=core-avx2"

ResNet-18 and ResNet-50, VGG-16, MobileNetV1 and MobileNetV2 are tuned in turn at 224x224, each starting from
the programs of those before it. The fastest program of each task is written to the package, in
python/tvm/contrib/cprune/starters. An interrupted run continues from its records in
build/benchmarks/starters.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from common import CACHE, ROOT, print_machine
from tvm.contrib.cprune import program_library
from tvm.contrib.cprune.commands.tune import load_network
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.program_library import file_name, load_table, merge
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.targets.target import host_target, vector_lanes
from tvm.contrib.cprune.types import Latency

# "mobilenet" is TVM's MobileNetV1, the others are torchvision's.
NETWORKS = ("resnet18", "mobilenet_v2", "mobilenet", "vgg16", "resnet50")
STARTERS = ROOT / "python" / "tvm" / "contrib" / "cprune" / "starters"


def tune(network: str, trials: int, target: str, folder: Path) -> TaskTable:
    """Tune a network; its programs are added to a library in the folder, whose table is returned."""
    library = folder / "library"
    model = load_network(network, 1, 224, "NHWC")
    config = PruneConfig(tune=TuneConfig(trials=trials, library=str(library)))
    with (
        ConsoleReport() as report,
        Compiler(config, model.input_shape, folder / network, target, report) as compiler,
    ):
        before = compiler.programs.trials()["search"]  # of a run that was interrupted
        compiler.tuner.search(model)
        seconds, count = compiler.seconds()["search"], compiler.programs.trials()["search"] - before
        print(f"{network}: {count} trials in {seconds:.0f} s", flush=True)
        context = str(compiler.target), compiler.measurer.threads, config.tune.cold_weights
    return load_table(library / file_name(TaskTable((), *context)))


def starter(row: Row) -> Row:
    """Return a row without what only its own network needs: all timed runs but their median, and layers."""
    program = replace(row.program, latency=Latency((row.program.latency.median,)))
    subgraph = replace(row.task.subgraphs[0], name="starter", layers=())
    return Row(replace(row.task, subgraphs=(subgraph,)), program, row.trials)


def write(table: TaskTable, path: Path) -> None:
    """Write the starters of a table, and compare them with what is read back."""
    starters = replace(table, rows=tuple(starter(row) for row in table.rows))
    starters.save(path)
    write_text(path, json.dumps(json.loads(path.read_text()), separators=(",", ":")) + "\n")
    if TaskTable.load(path) != starters:
        raise SystemExit(f"{path} differs from what was written")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS, metavar="NAME")
    parser.add_argument("--trials", type=int, default=32, help="trials per task (default: %(default)s)")
    parser.add_argument(
        "--target",
        default=host_target(),
        help="TVM target for AVX2 or AVX-512 that this machine can run (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the present starters of other tasks, and those that were faster when they were made",
    )
    args = parser.parse_args()
    print_machine()
    name = program_library.STARTER_FILES.get(vector_lanes(args.target))
    if name is None:
        parser.error(f"starters are for AVX2 and AVX-512; target {args.target!r} has neither")
    # Starters must not be made from starters.
    program_library.STARTER_FILES = {}
    started, folder = time.monotonic(), CACHE / "starters" / Path(name).stem
    for network in args.networks:
        table = tune(network, args.trials, args.target, folder)
    table = replace(table, rows=tuple(row for row in table.rows if row.task.layers))
    if args.keep:
        table = merge(table, load_table(STARTERS / name).rows)
    write(table, STARTERS / name)
    size = (STARTERS / name).stat().st_size / 1024
    print(
        f"{STARTERS / name}: {len(table.rows)} programs, {size:.0f} KiB, {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
