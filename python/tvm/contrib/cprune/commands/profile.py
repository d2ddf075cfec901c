# SPDX-License-Identifier: Apache-2.0
"""Measure the latency of layers at many widths, using transplants of their tuned programs.

    python -m tvm.contrib.cprune profile runs/mine/model.onnx --table runs/mine/table.json --layer fc

No search takes place: the program of each layer is moved to every width and timed. The following files are
written to --out:

    profile-LAYER.csv, profile-LAYER.png        latency by number of output channels
    profile-LAYER-in.csv, profile-LAYER-in.png  the same for input channels (--side in)
    profile.json                                records of all measurements

An interrupted command continues from profile.json. Pass this file to a pruning run as --profile to reuse the
measurements there.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.status import Status

from tvm.contrib.cprune.building.build import algorithms_of
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.importers.model_file import ModelFile, add_model_arguments, parse_shape
from tvm.contrib.cprune.measuring.context import RecordContext, local_device
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.profile import WidthLatency, profile_widths, to_csv
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.tuning.rescale import width_of
from tvm.contrib.cprune.types import CPruneError, Side

MAX_VARIANTS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    add_model_arguments(parser)
    parser.add_argument(
        "--table", type=Path, required=True, help="task table of the model (table.json of a run or of `tune`)"
    )
    parser.add_argument(
        "--layer", action="append", help="layer to measure, repeatable (default: the one with most impact)"
    )
    parser.add_argument(
        "--side",
        choices=("out", "in"),
        default="out",
        help="vary output or input channels (default: %(default)s)",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="measure every N-th width only (default: %(default)s)",
    )
    parser.add_argument(
        "--variants",
        type=int,
        default=3,
        metavar="N",
        help=f"programs per width if tile factors must change, 1 to {MAX_VARIANTS} (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("profile"), help="output folder (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    if options.every < 1:
        raise CPruneError(f"--every is {options.every}, expected at least 1")
    if not 1 <= options.variants <= MAX_VARIANTS:
        raise CPruneError(f"--variants is {options.variants}, expected 1 to {MAX_VARIANTS}")
    table = load_measurable_table(options)
    tune = TuneConfig(tuner=table.tuner, threads=table.threads, cold_weights=table.cold_weights)
    path = options.out / "profile.json"
    layers = options.layer or [next(row for row in table.by_impact() if row.task.layers).task.layers[0]]
    console = Console()
    with LocalMeasurer(tune) as measurer:
        context = RecordContext(table.target, measurer.threads, table.cold_weights, local_device())
        if path.exists():
            context.require(options.out, "the earlier profile")
        context.save(options.out)
        log = RecordLog(path)
        for layer in layers:
            profile = profile_layer(table, layer, measurer, log, options, console)
            name = f"profile-{layer}-in" if options.side == "in" else f"profile-{layer}"
            write_text(options.out / f"{name}.csv", to_csv(profile))
            plot(profile, layer, options.side, options.out / f"{name}.png")
            console.print(summary(profile, layer), options.out / f"{name}.png")


def load_measurable_table(options: argparse.Namespace) -> TaskTable:
    """Return the table with tasks extracted from the model, so that they can be measured.

    Raises
    ------
    CPruneError
        If the table belongs to another model.
    """
    table = TaskTable.load(options.table)
    model = ModelFile.load(options.model, parse_shape(options.input_shape)).relay(table.tuner)
    tasks = extract_from_program(model.mod, None, table.target, algorithms_of(table), tuner=table.tuner)
    programs = {row.task.workload_key: row.program for row in table.rows}
    rows = tuple(Row(task, programs[task.workload_key]) for task in tasks if task.workload_key in programs)
    if not rows:
        raise CPruneError(
            f"{options.table} and {options.model} have no task in common: expected the table of this model"
        )
    return TaskTable(rows, table.target, table.threads, table.cold_weights)


def profile_layer(
    table: TaskTable,
    layer: str,
    measurer: LocalMeasurer,
    log: RecordLog,
    options: argparse.Namespace,
    console: Console,
) -> list[WidthLatency]:
    """Measure one layer and show the progress on the console."""
    rows = table.of_layer(layer)
    width = width_of(rows[0].task, options.side) if rows else 1
    widths = range(width, 0, -options.every)
    with console.status(layer) as status:
        report = _StatusReport(status, layer, width)
        return profile_widths(table, layer, measurer, log, options.side, widths, options.variants, report)


class _StatusReport:
    """Shows the width that was measured last."""

    def __init__(self, status: Status, layer: str, width: int) -> None:
        self._status, self._layer, self._width = status, layer, width

    def __call__(self, result: WidthLatency) -> None:
        self._status.update(f"{self._layer}: width {result.width} of {self._width}")


def summary(profile: list[WidthLatency], layer: str) -> str:
    """Return a one-line summary of a profile.

    Latencies at widths that do not fit are compared with the latency at the largest width, scaled in
    proportion to the width.
    """
    valid = [(result, result.latency.median) for result in profile if result.latency]
    if not valid:
        return f"{layer}: no valid program at any of {len(profile)} widths:"
    largest, largest_latency = valid[-1]
    slowdowns = [
        latency / (largest_latency * result.width / largest.width)
        for result, latency in valid
        if not result.fits
    ]
    fitting = len(valid) - len(slowdowns)
    slowest = f"; others take up to {max(slowdowns):.1f} times the proportional latency" if slowdowns else ""
    return f"{layer}: {len(valid)} of {len(profile)} widths have a valid program, {fitting} fit{slowest}:"


def plot(profile: list[WidthLatency], layer: str, side: Side, path: Path) -> None:
    """Plot latency over width as a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for fits, colour, label in ((False, "tab:orange", "tile factors changed"), (True, "tab:blue", "fits")):
        points = [(r.width, r.latency.median * 1e6) for r in profile if r.latency and r.fits == fits]
        axes.plot([x for x, _ in points], [y for _, y in points], ".", color=colour, label=label)
    axes.set(xlabel=f"{side}put channels", ylabel="latency (µs)", title=layer, ylim=(0, None))
    axes.legend()
    with replaced(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
