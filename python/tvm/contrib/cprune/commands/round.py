# SPDX-License-Identifier: Apache-2.0
"""Snap the channels of a model that was pruned without its compiler to widths that tuned programs fit.

    python -m tvm.contrib.cprune round model.onnx --table runs/mine/table_unpruned.json --out rounded.onnx

The table is what a run of CPrune or the command `tune` wrote for the unpruned model: layers are joined by
name. Up, channels of zeros are added, and the outputs stay what they were. Both models are compiled, compared
and timed side by side before the file takes its name.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.importers.model_file import ModelFile, add_model_arguments, parse_shape
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.transform.rounding.round_channels import MODES, Rounding, round_function
from tvm.contrib.cprune.types import CPruneError, Latency, RelayModel

# Outputs may differ by this share of the largest one: sums are added in another order.
TOLERANCE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    add_model_arguments(parser)
    parser.add_argument("--table", type=Path, required=True, help="task table of the tuned model (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="file to write, of the same kind")
    parser.add_argument("--mode", choices=MODES, default="up", help="which way to round (%(default)s)")
    parser.add_argument(
        "--max-growth",
        type=float,
        default=0.5,
        help="most channels to add, as a share of a layer's (%(default)s)",
    )
    parser.add_argument("--no-timing", action="store_true", help="do not compile, compare or time")


def run(options: argparse.Namespace) -> None:
    if options.out.suffix != options.model.suffix:
        raise CPruneError(f"--out is {options.out}, expected a {options.model.suffix} file as the model is")
    table, shape = TaskTable.load(options.table), parse_shape(options.input_shape)
    file = ModelFile.load(options.model, shape)
    values = {name: value.numpy() for name, value in file.params.items()}
    rounded = round_function(
        file.mod["main"], table, options.mode, options.max_growth, parameters=values, cut=False
    )
    console = Console()
    console.print(summary(rounded.roundings))
    with replaced(options.out) as aside:
        file.save(rounded.parameters, aside)
        again, said = ModelFile.load(aside, shape), ""
        if not options.no_timing:
            before, after = measure(file.relay(table.tuner), again.relay(table.tuner), table, options)
            said = (
                f"before {before.median * 1e3:.3f} ± {before.spread * 1e3:.3f} ms, "
                f"after {after.median * 1e3:.3f} ± {after.spread * 1e3:.3f} ms: "
                f"{before.median / after.median:.2f} times as fast; "
            )
    console.print(f"{said}wrote {options.out}")


def summary(roundings: tuple[Rounding, ...]) -> Table:
    """Return what was changed and what was left, as a table."""
    table = Table("layers", "channels", "why")
    for each in roundings:
        width = f"{each.width} → {each.new_width}" if each.changed else str(each.width)
        table.add_row(", ".join(each.layers), width, each.reason)
    return table


def measure(
    old: RelayModel, new: RelayModel, table: TaskTable, options: argparse.Namespace
) -> tuple[Latency, Latency]:
    """Compile both models with the table's programs, compare their outputs, and time them side by side."""
    config = PruneConfig(
        tune=TuneConfig(tuner=table.tuner, threads=table.threads, cold_weights=table.cold_weights)
    )
    with tempfile.TemporaryDirectory() as name:
        folder, records = Path(name), options.table.parent / "records"
        if records.is_dir():  # slower programs that may fit where the table's do not
            shutil.copytree(records, folder / "records")
        with Compiler(config, old.input_shape, folder, table.target) as compiler:
            libraries = {
                "before": compiler.compile(old, table, "before")[1],
                "after": compiler.compile(new, table, "after")[1],
            }
            data = sample_input(old.input_shape)
            outputs = [compiler.measurer.run_model(each, data) for each in libraries.values()]
            error = float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max())
            if options.mode == "up" and error > TOLERANCE:
                raise CPruneError(f"the rounded model's outputs differ by {error:.1e}: nothing was written")
            times = compiler.time_libraries(libraries)
    return times["before"], times["after"]
