# SPDX-License-Identifier: Apache-2.0
"""First tuning of networks at 224x224 that no starter was made from, with and without the starter library.

    python benchmarks/first_tuning.py
    python benchmarks/first_tuning.py --networks mnasnet1_0 --trials 8

Both tunings begin without records. Their models are then timed side by side. Goal: a quarter of the time at a
latency within 3 %.
"""

import argparse
import shutil
import time
from pathlib import Path

from common import CACHE, median, print_machine, spread
from tvm.contrib.cprune.commands.tune import load_network
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.types import RelayModel

NETWORKS = ("squeezenet1_1", "mnasnet1_0")
FOLDER = CACHE / "first_tuning"
ROUNDS = 5


def tune(
    model: RelayModel, folder: Path, trials: int, library: Path | str
) -> tuple[float, dict[str, int], Path]:
    """Tune a network from nothing.

    Returns
    -------
    The seconds until every task has its program, the programs measured by origin, and the compiled model.
    """
    shutil.rmtree(folder, ignore_errors=True)
    config = PruneConfig(tune=TuneConfig(trials=trials, library=str(library)))
    with (
        ConsoleReport() as report,
        Compiler(config, model.input_shape, folder, None, report) as compiler,
    ):
        started = time.monotonic()
        table = compiler.tuner.search(model)
        seconds = time.monotonic() - started
        _, path = compiler.compile(model, table, "model")
        return seconds, compiler.programs.trials(), path


def compare(network: str, trials: int) -> None:
    """Tune a network both ways and print a row for each."""
    model = load_network(network, 1, 224, "NHWC")
    folder = FOLDER / network
    # With an empty library, only the starters remain.
    shutil.rmtree(folder, ignore_errors=True)
    libraries: dict[str, Path | str] = {"none": "none", "starters": folder / "library"}
    tuned = {name: tune(model, folder / name, trials, library) for name, library in libraries.items()}
    with Compiler(PruneConfig(), model.input_shape, folder / "timing") as compiler:
        times = compiler.time_libraries({name: path for name, (_, _, path) in tuned.items()}, ROUNDS)
    for name, (seconds, counts, _) in tuned.items():
        samples = [sample * 1e3 for sample in times[name].samples]
        trials_text = f"{counts['search']} + {counts['transplant']}"
        latency = f"{median(samples):.3f} ± {spread(samples):.3f}"
        print(f"| {network} | {name} | {seconds:.0f} | {trials_text} | {latency} |", flush=True)
    time_ratio = tuned["starters"][0] / tuned["none"][0]
    latency_ratio = times["starters"].median / times["none"].median
    print(f"{network}: {time_ratio:.2f} of the time, {latency_ratio:.3f} of the latency", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME")
    parser.add_argument("--trials", type=int, default=16, help="trials per task (default: %(default)s)")
    args = parser.parse_args()
    print_machine()
    print("| network | library | s | trials (search + transplant) | ms |\n|---|---|---|---|---|")
    for network in args.networks:
        compare(network, args.trials)


if __name__ == "__main__":
    main()
