# SPDX-License-Identifier: Apache-2.0
"""Extract a network's tasks, tune them, build it with the fastest programs, export it and time it.

    python -m tvm.contrib.cprune tune --network resnet-18 --tuner xgb --target "llvm" --trials 64
    python -m tvm.contrib.cprune tune --network model.onnx --tuner ansor --out tuned

A network is one of TVM's (resnet-18, resnet-50, vgg-16, mobilenet, squeezenet_v1.1, inception_v3), one of
torchvision's by its name there, with random weights, or an ONNX file. The records are kept in --out: the same
command again goes on where it was, and --transfer starts from those of another network.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from tvm.contrib.cprune.building.build import algorithms_of, build
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import STRATEGIES, PruneConfig, TuneConfig
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.importers.from_onnx import from_onnx
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.importers.relay_model import label_layers, to_relay_model
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.models.torchvision_models import load_torchvision
from tvm.contrib.cprune.tuning.backends import BACKENDS
from tvm.contrib.cprune.types import CPruneError, RelayModel, TunerName

# TVM's own networks: its name in relay.testing, the arguments there, the input's rows and columns.
_TESTING: dict[str, tuple[str, dict[str, Any], int]] = {
    **{f"resnet-{n}": ("resnet", {"num_layers": n}, 224) for n in (18, 34, 50, 101, 152)},
    **{f"vgg-{n}": ("vgg", {"num_layers": n}, 224) for n in (11, 13, 16, 19)},
    "mobilenet": ("mobilenet", {}, 224),
    "squeezenet_v1.1": ("squeezenet", {"version": "1.1"}, 224),
    "inception_v3": ("inception_v3", {}, 299),
}
PRUNE, TUNE = PruneConfig(), TuneConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    parser.add_argument("--network", required=True, help="name, or path of an .onnx file")
    parser.add_argument("--tuner", default="ansor", choices=("ansor", *STRATEGIES), help="(%(default)s)")
    parser.add_argument("--target", help='such as "llvm -mcpu=core-avx2" (default: this machine)')
    parser.add_argument("--trials", type=int, default=TUNE.trials, help="programs a task (%(default)s)")
    parser.add_argument(
        "--early-stopping", type=int, default=TUNE.early_stopping, help="trials without gain (%(default)s)"
    )
    parser.add_argument("--max-seconds", type=float, default=0, help="time for the search; 0: no limit")
    parser.add_argument("--threads", type=int, default=0, help="threads of the model (default: all cores)")
    parser.add_argument("--batch-size", type=int, default=1, help="images at a time (%(default)s)")
    parser.add_argument("--image-size", type=int, help="rows and columns (default: the network's usual ones)")
    parser.add_argument("--transfer", type=Path, help="AutoTVM records of another network to start from")
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="folder (%(default)s)")
    parser.add_argument("--format", choices=("so", "tar"), default="so", help="of the library (%(default)s)")
    parser.add_argument("--repeats", type=int, default=PRUNE.measure_repeats, help="timed runs (%(default)s)")
    parser.add_argument("--seed", type=int, default=PRUNE.seed, help="of every random choice (%(default)s)")
    parser.add_argument(
        "--full-coverage",
        action="store_true",
        help="fail unless every task runs with a tuned program",
    )


def load_network(name: str, batch_size: int, image_size: int | None, layout: str) -> RelayModel:
    """Return a network by its name in ``relay.testing`` or torchvision, or from an ONNX file.

    Raises
    ------
    CPruneError
        If there is none of that name.
    """
    if name.endswith(".onnx"):
        return from_onnx(Path(name), layout)
    if name in _TESTING:
        return _from_testing(name, batch_size, image_size, layout)
    model = load_torchvision(name, 1000)
    size = image_size or (299 if name == "inception_v3" else 224)
    return from_torch(model, (batch_size, 3, size, size), layout)


def _from_testing(name: str, batch_size: int, image_size: int | None, layout: str) -> RelayModel:
    from tvm.relay import testing

    module, arguments, usual = _TESTING[name]
    size = image_size or usual
    workload = getattr(testing, module).get_workload(
        batch_size=batch_size, image_shape=(3, size, size), **arguments
    )
    mod, params = workload
    return to_relay_model(label_layers(mod), params, (batch_size, 3, size, size), layout)


def run(options: argparse.Namespace) -> None:
    tuner: TunerName = "ansor" if options.tuner == "ansor" else "autotvm"
    if options.transfer and not options.tuner.startswith("xgb"):
        raise CPruneError(f"--transfer is for the tuners xgb and xgb-rank, not for {options.tuner}")
    tune = TuneConfig(
        tuner=tuner,
        strategy="xgb" if tuner == "ansor" else options.tuner,
        trials=options.trials,
        early_stopping=options.early_stopping,
        max_seconds=options.max_seconds,
        threads=options.threads,
        transfer=str(options.transfer or ""),
    )
    config = PruneConfig(tune=tune, seed=options.seed, measure_repeats=options.repeats)
    layout = BACKENDS[tune.tuner].layout
    model = load_network(options.network, options.batch_size, options.image_size, layout)
    with (
        ConsoleReport() as report,
        Compiler(
            config, model.input_shape, options.out, options.target, report, options.full_coverage
        ) as compiler,
    ):
        table = compiler.tuner.search(model)
        count = len(compiler.tuner.extract(model, algorithms_of(table)))
        path = options.out / f"net.{options.format}"
        library = build(model, table, options.full_coverage)
        with replaced(path) as aside:
            library.export_library(str(aside))
        table.save(options.out / "table.json")
        write_text(options.out / "best.json", "".join(f"{row.program.record}\n" for row in table.rows))
        times = compiler.time_libraries({"model": path})["model"]
        milliseconds = [sample * 1e3 for sample in times.samples]
        report.say(f"{len(table.rows)} of {count} tasks ran with a tuned program")
        report.say(
            f"inference: mean {statistics.mean(milliseconds):.3f} ms, "
            f"standard deviation {statistics.pstdev(milliseconds):.3f} ms, "
            f"{len(milliseconds)} runs on {compiler.measurer.threads} threads; see {path}"
        )
