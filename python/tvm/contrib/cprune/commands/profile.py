# SPDX-License-Identifier: Apache-2.0
"""The latency staircase of a model's layers: the tuned program moved to every width, and measured.

    python -m tvm.contrib.cprune profile runs/mine/model.onnx --table runs/mine/table.json --layer fc

Writes one table (profile-LAYER.csv) and one plot (profile-LAYER.png) for each layer into --out, and the
records of all, profile.json. A run of CPrune that is given these (--profile) does not measure these widths
again.
"""

import argparse
from pathlib import Path

from rich.console import Console

from tvm.contrib.cprune.building.build import algorithms_of
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.importers.model_file import ModelFile, add_model_arguments, parse_shape
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.profile import WidthLatency, profile_widths, to_csv
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.tuning.rescale import width_of
from tvm.contrib.cprune.types import CPruneError, Side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    add_model_arguments(parser)
    parser.add_argument("--table", type=Path, required=True, help="the model's task table (JSON)")
    parser.add_argument("--layer", action="append", help="a layer; may be repeated (default: the costliest)")
    parser.add_argument("--side", choices=("out", "in"), default="out", help="whose channels (%(default)s)")
    parser.add_argument("--every", type=int, default=1, help="measure each N-th width (%(default)s)")
    parser.add_argument("--variants", type=int, default=3, help="programs where factors change (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("profile"), help="folder (%(default)s)")


def run(options: argparse.Namespace) -> None:
    if options.every < 1 or not 1 <= options.variants <= 8:
        raise CPruneError(f"--every is {options.every} and --variants {options.variants}, expected 1 or more")
    console = Console()
    table = live_table(TaskTable.load(options.table), options)
    tune = TuneConfig(tuner=table.tuner, threads=table.threads, cold_weights=table.cold_weights)
    log = RecordLog(options.out / "profile.json")
    layers = options.layer or [next(row for row in table.by_impact() if row.task.layers).task.layers[0]]
    with LocalMeasurer(tune) as pool:
        for layer in layers:
            rows = table.of_layer(layer)
            top = width_of(rows[0].task, options.side) if rows else 1
            widths = sorted({*range(top, 0, -options.every)})
            with console.status(f"{layer}") as status:

                def tell(each: WidthLatency, layer: str = layer, status=status, top: int = top) -> None:  # type: ignore[no-untyped-def]
                    status.update(f"{layer}: width {each.width} of {top}")

                found = profile_widths(
                    table, layer, pool, log, options.side, widths, options.variants, report=tell
                )
            name = f"profile-{layer}-{options.side}" if options.side == "in" else f"profile-{layer}"
            write_text(options.out / f"{name}.csv", to_csv(found))
            plot(found, layer, options.side, options.out / f"{name}.png")
            console.print(summary(found, layer), options.out / f"{name}.png")


def live_table(table: TaskTable, options: argparse.Namespace) -> TaskTable:
    """Return a table whose tasks can be measured: those of the model, with the programs of the file."""
    model = ModelFile.load(options.model, parse_shape(options.input_shape)).relay(table.tuner)
    tasks = extract_from_program(model.mod, None, table.target, algorithms_of(table), tuner=table.tuner)
    programs = {row.task.workload_key: row.program for row in table.rows}
    rows = tuple(Row(task, programs[task.workload_key]) for task in tasks if task.workload_key in programs)
    if not rows:
        raise CPruneError(f"{options.table} is no table of {options.model}: they have no task in common")
    return TaskTable(rows, table.target, table.threads, table.cold_weights)


def summary(profile: list[WidthLatency], layer: str) -> str:
    """Return what a profile says in one line."""
    timed = [each for each in profile if each.latency]
    fitting = [each for each in timed if each.fits]
    top = timed[-1]
    assert top.latency is not None
    costs = [
        each.latency.median / (top.latency.median * each.width / top.width)
        for each in timed
        if each.latency and not each.fits
    ]
    off = f"; off the grid up to {max(costs):.1f} times proportional" if costs else ""
    return f"{layer}: {len(timed)} of {len(profile)} widths run, {len(fitting)} fit{off}:"


def plot(profile: list[WidthLatency], layer: str, side: Side, path: Path) -> None:
    """Draw latency over width."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for fits, colour, label in ((False, "tab:orange", "tile factors changed"), (True, "tab:blue", "fits")):
        chosen = [each for each in profile if each.latency and each.fits == fits]
        times = [each.latency.median * 1e6 for each in chosen if each.latency]
        axes.plot([each.width for each in chosen], times, ".", color=colour, label=label)
    axes.set(xlabel=f"{side}put channels", ylabel="latency in microseconds", title=layer, ylim=(0, None))
    axes.legend()
    with replaced(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
    pyplot.close(figure)
