# SPDX-License-Identifier: Apache-2.0
"""Tune a network, build it with the fastest programs, export it and time it.

    python -m tvm.contrib.cprune tune --network resnet-18 --trials 64
    python -m tvm.contrib.cprune tune --network resnet-18 --tuner autotvm --strategy xgb --target "llvm"
    python -m tvm.contrib.cprune tune --network model.onnx --out tuned

The folder --out receives the library, the task table, the fastest program of each task (best.json) and all
tuning records. Running the same command again continues from these records.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tvm.contrib.cprune.building.build import algorithms_of, build
from tvm.contrib.cprune.checks import check_fields
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import STRATEGIES, TUNERS, PruneConfig, TuneConfig
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.importers.from_onnx import from_onnx
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.importers.relay_model import label_layers, to_relay_model
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.models.torchvision_models import load_torchvision
from tvm.contrib.cprune.options import Options
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.tuning.backends import BACKENDS
from tvm.contrib.cprune.types import CPruneError, RelayModel

# TVM's own networks: module of relay.testing, arguments of its get_workload, usual image size.
_TESTING: dict[str, tuple[str, dict[str, Any], int]] = {
    **{f"resnet-{n}": ("resnet", {"num_layers": n}, 224) for n in (18, 34, 50, 101, 152)},
    **{f"vgg-{n}": ("vgg", {"num_layers": n}, 224) for n in (11, 13, 16, 19)},
    "mobilenet": ("mobilenet", {}, 224),
    "squeezenet_v1.1": ("squeezenet", {"version": "1.1"}, 224),
    "inception_v3": ("inception_v3", {}, 299),
}


@dataclass(frozen=True)
class NetworkSettings:
    """The network to tune and the files to write.

    Attributes
    ----------
    network
        A network of TVM (resnet-18, resnet-50, vgg-16, mobilenet, squeezenet_v1.1, inception_v3, ...), the
        name of a torchvision model, or the path of an ONNX file. Named networks have random weights.
    target
        TVM target to compile for, such as "llvm -mcpu=core-avx2". The default is this machine.
    batch_size
        Number of images per inference. An ONNX file has its own.
    image_size
        Rows and columns of the image. The default is the network's usual size.
    out
        Folder for the output.
    format
        File format of the library.
    full_coverage
        Fail unless every task has a tuned program.
    """

    network: str
    target: str | None = None
    batch_size: int = 1
    image_size: int | None = None
    out: Path = Path("tuned")
    format: Literal["so", "tar"] = "so"
    full_coverage: bool = False

    def __post_init__(self) -> None:
        sizes = ("batch_size", "image_size")
        check_fields(self, sizes, lambda value: value is None or value >= 1, "at least 1")


NETWORK = Options(NetworkSettings)
TUNE = Options(
    TuneConfig,
    ("tuner", "strategy", "transfer", "trials", "early_stopping", "max_seconds", "threads", "library"),
)
MEASURE = Options(PruneConfig, ("measure_repeats", "seed"), flags={"measure_repeats": "--repeats"})


class _TunerAction(argparse.Action):
    """Set the tuner. AutoTVM's strategies, which were tuners in earlier versions, are deprecated values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values in STRATEGIES:
            print(
                f"{parser.prog}: {option_string} {values} is deprecated; "
                f"use --tuner autotvm --strategy {values}",
                file=sys.stderr,
            )
            namespace.tuner, namespace.strategy = "autotvm", values
        elif values in TUNERS:
            namespace.tuner = values
        else:
            raise argparse.ArgumentError(
                self, f"invalid choice: {values!r} (choose from {', '.join(TUNERS)})"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    NETWORK.add_to(parser.add_argument_group("network and output"))
    tuner = {"action": _TunerAction, "choices": None, "metavar": f"{{{','.join(TUNERS)}}}"}
    TUNE.add_to(parser.add_argument_group("tuning"), tuner=tuner)
    MEASURE.add_to(parser.add_argument_group("measuring"))


def load_network(name: str, batch_size: int, image_size: int | None, layout: str) -> RelayModel:
    """Load a network from ``relay.testing``, torchvision or an ONNX file.

    Raises
    ------
    CPruneError
        If there is no network of this name, or the file cannot be read.
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

    module, arguments, usual_size = _TESTING[name]
    size = image_size or usual_size
    mod, params = getattr(testing, module).get_workload(
        batch_size=batch_size, image_shape=(3, size, size), **arguments
    )
    return to_relay_model(label_layers(mod), params, (batch_size, 3, size, size), layout)


def _export(model: RelayModel, table: TaskTable, settings: NetworkSettings) -> Path:
    """Build the model with the programs of a table, write all output, and return the library's path."""
    path = settings.out / f"net.{settings.format}"
    library = build(model, table, settings.full_coverage)
    with replaced(path) as temporary:
        library.export_library(str(temporary))
    table.save(settings.out / "table.json")
    write_text(settings.out / "best.json", "".join(f"{row.program.record}\n" for row in table.rows))
    return path


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises
    ------
    CPruneError
        If an option is invalid, or the network cannot be loaded, tuned or built.
    """
    settings, tune = NETWORK.build(options), TUNE.build(options)
    if tune.transfer and (tune.tuner != "autotvm" or tune.strategy not in ("xgb", "xgb-rank")):
        raise CPruneError("--transfer requires --tuner autotvm with --strategy xgb or xgb-rank")
    config = MEASURE.build(options, tune=tune)
    layout = BACKENDS[tune.tuner].layout
    model = load_network(settings.network, settings.batch_size, settings.image_size, layout)
    full = settings.full_coverage
    with (
        ConsoleReport() as report,
        Compiler(config, model.input_shape, settings.out, settings.target, report, full) as compiler,
    ):
        table = compiler.tuner.search(model)
        count = len(compiler.tuner.extract(model, algorithms_of(table)))
        path = _export(model, table, settings)
        times = compiler.time_libraries({"model": path})["model"]
        milliseconds = [sample * 1e3 for sample in times.samples]
        report.say(f"{len(table.rows)} of {count} tasks ran with a tuned program")
        report.say(
            f"inference: mean {statistics.mean(milliseconds):.3f} ms, "
            f"standard deviation {statistics.pstdev(milliseconds):.3f} ms, "
            f"{len(milliseconds)} runs on {compiler.measurer.threads} threads; see {path}"
        )
