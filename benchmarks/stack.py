# SPDX-License-Identifier: Apache-2.0
"""Pruning, algorithms, tuning and threads together: what each level of pruning costs and gains.

    python benchmarks/stack.py --estimate
    python benchmarks/stack.py --networks resnet18 --threads 2
    python benchmarks/stack.py
    python benchmarks/stack.py --quick    # ResNet-8 on digits, two levels

After Turner et al., "Characterising Across-Stack Optimisations for Deep Convolutional Neural Networks" (IISWC
2018). Four networks are pruned level by level, from 0 to 95 % of the channels of every layer (see
``stack_levels``). Each level is compiled with three algorithms, untuned and tuned, for one and two threads.

direct
    conv2d_NCHWc.x86: data and weights in blocks of channels; weights are packed when a network is compiled.
winograd
    conv2d_nchw_winograd.arm_cpu: Winograd's F(4x4, 3x3), for kernels of 3x3 with a stride of 1. All other
    convolutions are direct, such as those of 1x1.
spatial-pack
    conv2d_nchw_spatial_pack.arm_cpu: data in blocks of rows and columns, which every run packs.

TVM 0.17 has the last two for Arm only. Here they are compiled for this machine (see ``stack_programs``).
Depthwise and linear layers have the fastest of their templates with every algorithm. AutoTVM finds the tuned
programs, with the same number of trials for every task. Untuned ones have TVM's fallback configurations. For
the two templates of Arm, TVM takes them from TopHub, which is not used here. Without it, all tiles have one
element, so untuned rows of winograd and spatial-pack are much slower than TVM's defaults on an Arm device.

The expected speedup is the ratio of the multiply-accumulates, the actual one that of the median latencies.
The unpruned and the pruned network take turns. The elbow is the level after which accuracy falls faster than
latency (Kneedle, see ``stack_report.elbow``).

The results are in build/benchmarks/stack: stack.json, and stack.html with the plots. An interrupted benchmark
continues there, and calls with other networks, levels, algorithms or threads add to it.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from common import CACHE, print_machine
from stack_estimate import measuring_seconds, training_seconds
from stack_levels import Levels, Schedule
from stack_programs import ALGORITHMS, TUNING, compile_network, stack_target
from stack_report import Row, curves, elbow_of, expected_speedup, page, table
from tutorial_runs import load_splits
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.timing import sample_input, time_side_by_side
from tvm.contrib.cprune.report.numbers import duration
from tvm.contrib.cprune.types import CPruneError, Latency

NETWORKS = ("vgg16", "resnet18", "mobilenetv1", "mobilenetv2")
LEVELS = (0, 25, 50, 60, 70, 80, 90, 95)
QUICK_LEVELS = (0, 50)
THREADS = (1, 2)
# Rounds of timed runs, and the seconds and runs of one of them: slow networks get fewer runs.
ROUNDS, QUICK_ROUNDS, ROUND_SECONDS, MIN_RUNS, MAX_RUNS = 3, 1, 4.0, 3, 40


class Cell(NamedTuple):
    """What a row is about, apart from its network."""

    threads: int
    percent: int
    algorithm: str
    tuning: str

    def file(self, folder: Path) -> Path:
        """Return the file of the row."""
        return folder / "rows" / f"{self.percent:02}-{self.algorithm}-{self.tuning}-{self.threads}.json"


def cells(args: argparse.Namespace) -> list[Cell]:
    """Return the selected cells of a network in the order in which they are measured."""
    return [
        Cell(threads, percent, algorithm, tuning)
        for threads in args.threads
        for percent in args.levels
        for tuning in args.tuning
        for algorithm in args.algorithms
    ]


def check_settings(folder: Path, schedule: Schedule, trials: int) -> None:
    """Check that the folder's results have these settings; a new folder gets them."""
    file, settings = folder / "settings.json", {**schedule._asdict(), "trials": trials}
    settings["levels"] = list(schedule.levels)
    if not file.exists():
        write_text(file, json.dumps(settings))
    stored = json.loads(file.read_text())
    if stored != settings:
        raise CPruneError(f"{folder} has results of {stored}, not of {settings}: move or delete it")


def time_pair(compiler: Compiler, unpruned: Path, pruned: Path, rounds: int) -> tuple[Latency, Latency]:
    """Time the unpruned and the pruned network in turn, in a process with the compiler's threads."""
    measurer, shape = compiler.measurer, compiler.input_shape
    libraries = {"unpruned": unpruned, "pruned": pruned}
    once = sum(min(costs) for costs in measurer.time_models(list(libraries.values()), sample_input(shape), 1))
    runs = max(MIN_RUNS, min(MAX_RUNS, int(ROUND_SECONDS / once)))
    times = time_side_by_side(measurer, libraries, shape, runs, rounds)
    return times["unpruned"], times["pruned"]


def measure(levels: Levels, cell: Cell, compiler: Compiler, rounds: int) -> Row:
    """Compile and time a cell whose level is trained."""
    unpruned, level = levels.train(0), levels.train(cell.percent)

    def library(percent: int) -> Path:
        return compiler.run_dir / "libraries" / f"{percent:02}-{cell.algorithm}-{cell.tuning}.so"

    for percent in dict.fromkeys((0, cell.percent)):
        path, model = library(percent), levels.model(percent)
        compile_network(compiler, model, cell.algorithm, cell.tuning, path)
    before, after = time_pair(compiler, library(0), library(cell.percent), rounds)
    return Row(
        levels.folder.name,
        cell.percent,
        cell.algorithm,
        cell.tuning,
        cell.threads,
        level.accuracy,
        after.median * 1e3,
        after.spread * 1e3,
        before.median * 1e3,
        before.median / after.median,
        expected_speedup(unpruned.macs, level.macs),
    )


def print_estimate(levels: Levels, pending: list[Cell], trials: int) -> float:
    """Print and return the estimated seconds of what a network still lacks."""
    if not pending:
        return 0.0
    training = training_seconds(levels, {cell.percent for cell in pending})
    rows = ((cell.algorithm, cell.tuning) for cell in pending)
    measuring = measuring_seconds(levels, rows, trials)
    print(
        f"# {levels.folder.name}: about {duration(training)} for training and {duration(measuring)} for "
        f"{len(pending)} rows",
        flush=True,
    )
    return training + measuring


def run(levels: Levels, pending: list[Cell], args: argparse.Namespace, report: ConsoleReport) -> None:
    """Train, compile and time what a network still lacks."""
    for percent in sorted({cell.percent for cell in pending}):
        print(levels.train(percent), flush=True)
    for threads in dict.fromkeys(cell.threads for cell in pending):
        tune = TuneConfig(tuner="autotvm", trials=args.trials, threads=threads)
        folder = levels.folder / f"{threads}-threads"
        with Compiler(PruneConfig(tune=tune), levels.shape, folder, stack_target(), report) as compiler:
            for cell in pending:
                if cell.threads == threads:
                    row = measure(levels, cell, compiler, args.rounds)
                    write_text(cell.file(levels.folder), json.dumps(row._asdict()))
                    write_results(levels.folder.parent)
                    print(row, flush=True)


def write_results(folder: Path) -> list[Row]:
    """Write stack.json and stack.html about all rows in a folder, and return the rows."""
    rows = [Row(**json.loads(file.read_text())) for file in sorted(folder.glob("*/rows/*.json"))]
    elbows = [{**curve._asdict(), "elbow": elbow_of(own)} for curve, own in curves(rows).items()]
    results = {"rows": [row._asdict() for row in rows], "elbows": elbows}
    write_text(folder / "stack.json", json.dumps(results, indent=1))
    write_text(folder / "stack.html", page(rows))
    return rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", nargs="+", default=list(NETWORKS), metavar="NAME", help="default: all four")
    add("--levels", nargs="+", type=int, default=list(LEVELS), choices=LEVELS, help="to time (default: all)")
    add("--algorithms", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS, help="default: all")
    add("--tuning", nargs="+", default=list(TUNING), choices=TUNING, help="default: both")
    add("--threads", nargs="+", type=int, default=list(THREADS), choices=THREADS, help="default: both")
    add("--dataset", default="glyphs", help="default: %(default)s")
    add("--epochs", type=int, default=10, help="of the first training (default: %(default)s)")
    add("--fine-tune-epochs", type=int, default=3, help="of each level (default: %(default)s)")
    add("--precision", default="32-true", help="of all trainings (default: %(default)s)")
    add("--trials", type=int, default=8, help="trials per task (default: %(default)s)")
    add("--estimate", action="store_true", help="print the estimated time, and stop")
    add("--quick", action="store_true", help="ResNet-8 on digits, two levels, 2 trials per task")
    args = parser.parse_args()
    args.rounds = QUICK_ROUNDS if args.quick else ROUNDS
    if args.quick:
        args.networks, args.dataset, args.levels = ["resnet8"], "digits", list(QUICK_LEVELS)
        args.epochs, args.fine_tune_epochs, args.trials = 3, 1, 2
    return args


def main() -> None:
    args = parse_args()
    print_machine()
    root = CACHE / "stack" / "quick" if args.quick else CACHE / "stack"
    chain = QUICK_LEVELS if args.quick else LEVELS
    schedule = Schedule(chain, args.epochs, args.fine_tune_epochs, args.precision)
    splits, jobs, seconds = load_splits(args.dataset), [], 0.0
    with ConsoleReport() as report:
        for network in args.networks:
            folder = root / f"{network}-{args.dataset}"
            check_settings(folder, schedule, args.trials)
            levels = Levels(network, schedule, splits, folder, report)
            pending = [cell for cell in cells(args) if not cell.file(folder).exists()]
            seconds += print_estimate(levels, pending, args.trials)
            jobs.append((levels, pending))
        print(f"# estimated time: {duration(seconds)}", flush=True)
        if args.estimate:
            return
        for levels, pending in jobs:
            run(levels, pending, args, report)
    rows = write_results(root)
    for network in dict.fromkeys(row.network for row in rows):
        print(f"\n{network}\n\n{table([row for row in rows if row.network == network])}")
    print(f"\nwrote {root / 'stack.html'} and stack.json")


if __name__ == "__main__":
    main()
