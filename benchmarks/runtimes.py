# SPDX-License-Identifier: Apache-2.0
"""Latency of CPrune's models beside ONNX Runtime, OpenVINO, ncnn and MNN, float32, batch size 1, all cores.

    python benchmarks/runtimes.py
    python benchmarks/runtimes.py --networks resnet18 mobilenet_v2 --trials 16 --steps 0
    python benchmarks/runtimes.py --networks resnet18 --library none --tasks

Each network has random weights. It is tuned, pruned for some iterations without regard to accuracy, tuned
again, and timed at the original and at the pruned widths. All runtimes take turns; their outputs are compared
with PyTorch's. The last column is CPrune's time over that of the fastest other runtime. Rounds with near and
with far cores (see core_distance.py) have rows of their own. An interrupted run continues from the folders in
build/benchmarks/runtimes.
"""

import argparse
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from bounds import print_tasks
from common import CACHE, median, print_machine, spread
from core_distance import FAR, round_trip
from models import make_model
from peers import OURS, RUNTIMES, Peer, convert, take_turns
from tvm.contrib.cprune.building.build import algorithms_of
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.target import host_threads

# Image size and pruning iterations of each network.
NETWORKS = {
    "resnet18": (224, 16),
    "resnet50": (224, 16),
    "vgg16_bn": (224, 16),
    "mobilenet_v2": (224, 6),
    "efficientnet_b0": (224, 6),
    "squeezenet1_1": (224, 6),
    "small/resnet18": (32, 16),
    "small/mobilenetv2": (32, 6),
}
ROUNDS, RUNS = 10, 10


def no_training(_: nn.Module) -> None:
    """Leave a candidate as it is: the benchmark measures latency only."""


def make_network(name: str) -> nn.Module:
    """Return a network with random weights, whose outputs depend on all of its layers.

    The default initialization divides activations by about three in each layer. Without batch norm, which is
    the identity here, the outputs of a deep network would be the bias of its last layer.
    """
    torch.manual_seed(0)
    model = make_model(name, 3, 1000, NETWORKS[name][0]).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def tune_and_prune(
    name: str, model: nn.Module, steps: int, tune: TuneConfig, folder: Path
) -> tuple[dict[str, tuple[nn.Module, Path]], TaskTable]:
    """Tune a network, and prune it for some iterations.

    Returns
    -------
    The model and its compiled library at the original and at the pruned widths, and the table of the former.
    """
    shape = (1, 3, NETWORKS[name][0], NETWORKS[name][0])
    config = PruneConfig(alpha=1e-6, max_iterations=max(steps, 1), final_trials=tune.trials, tune=tune)
    algorithms = None
    with ConsoleReport() as report:
        if steps:
            training = Training(no_training, lambda _: 1.0)
            CPruner(model, shape, training, config, folder, report=report).run(resume=True)
            # The run has searched already.
            algorithms = algorithms_of(TaskTable.load(folder / "table_unpruned.json"))
        with Compiler(config, shape, folder, report=report) as compiler:
            candidate = compiler.tune(model, algorithms)
            print(f"# {name}: {compiler.programs.trials()} trials")
    variants = {"original": (model, candidate.library)}
    if steps:
        variants["pruned"] = (torch.jit.load(folder / "model.pt"), folder / "net.so")
    return variants, candidate.table


def time_in_turn(
    model: nn.Module, library: Path, shape: tuple[int, ...], folder: Path
) -> list[tuple[float, dict[str, list[float]]]]:
    """Return the distance of the cores in each round, and the seconds of the runs of all runtimes."""
    convert(model, shape, folder)
    shutil.copy(library, folder / RUNTIMES[OURS][0])
    data = sample_input(shape)
    with torch.no_grad():
        expected = model(torch.from_numpy(data)).numpy()
    rounds = []
    with ExitStack() as processes:
        peers = [processes.enter_context(Peer(name, folder, data, host_threads())) for name in RUNTIMES]
        for peer in peers:
            peer.check(expected)
        for _ in range(ROUNDS):
            distance = round_trip()
            samples = take_turns(peers, 1, RUNS)
            rounds.append((distance, {peer.name: own for peer, own in zip(peers, samples, strict=True)}))
    return rounds


def print_row(name: str, rounds: Sequence[tuple[float, dict[str, list[float]]]]) -> None:
    """Print the times of some rounds, and CPrune's time over that of the fastest other runtime."""
    times = {
        runtime: [second for _, samples in rounds for second in samples[runtime]] for runtime in RUNTIMES
    }
    medians = {runtime: median(values) for runtime, values in times.items()}
    cells = [f"{medians[key] * 1e3:.2f} ± {spread(times[key]) * 1e3:.2f}" for key in times]
    ratio = medians[OURS] / min(medians[key] for key in RUNTIMES if key != OURS)
    distance = f"{median([distance for distance, _ in rounds]):.0f} | {len(rounds)}"
    print(f"| {name} | {distance} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


def compare(name: str, args: argparse.Namespace) -> None:
    """Tune and prune a network, and print a row for each of its variants."""
    size, steps = NETWORKS[name]
    steps = steps if args.steps is None else args.steps
    kind = f"{args.trials}-{Path(args.library or 'starters').name}-{steps}"
    folder = CACHE / "runtimes" / name.replace("/", "-") / kind
    # Only the starters: an empty library, which belongs to this folder.
    tune = TuneConfig(trials=args.trials, library=args.library or str(folder / "library"))
    model = make_network(name)
    variants, table = tune_and_prune(name, model, steps, tune, folder)
    for variant, (network, library) in variants.items():
        rounds = time_in_turn(network, library, (1, 3, size, size), folder / "peers" / variant)
        for far in (False, True):
            chosen = [item for item in rounds if (item[0] > FAR) == far]
            if chosen:
                print_row(f"{name} {variant}", chosen)
    if args.tasks:
        print_tasks(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    parser.add_argument("--trials", type=int, default=16, help="trials per task (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, help="pruning iterations (default: 16 for ResNet and VGG, 6 for others)"
    )
    parser.add_argument("--library", help='"none", or a folder of programs (default: the starters only)')
    parser.add_argument("--tasks", action="store_true", help="also print the tasks with their bounds")
    args = parser.parse_args()
    print_machine()
    columns = [
        "network",
        "round trip, ns",
        "rounds",
        *(f"{name}, ms" for name in RUNTIMES),
        "ours over the best other",
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in args.networks:
        compare(name, args)


if __name__ == "__main__":
    main()
