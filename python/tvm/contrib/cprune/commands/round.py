# SPDX-License-Identifier: Apache-2.0
"""Round the channels of a model that was pruned without its compiler to widths that tuned programs fit.

    python -m tvm.contrib.cprune round model.onnx --table runs/mine/table_unpruned.json --out rounded.onnx

The table comes from a run of CPrune or from the command `tune` on the unpruned model. Its programs are
assigned to layers by name. Rounding up adds channels of zeros, so the outputs do not change. Both models are
compiled, compared and timed side by side before the file is written.
"""

import argparse
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.importers.model_file import ModelFile, add_model_arguments, parse_shape
from tvm.contrib.cprune.importers.onnx_session import onnx_session
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.models.reference import torch_outputs
from tvm.contrib.cprune.numerics import Array, compare_outputs
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.transform.rounding.round_channels import Rounding, round_function
from tvm.contrib.cprune.transform.rounding.widths import MODES, RoundingOptions
from tvm.contrib.cprune.types import CPruneError, Latency, RelayModel

# Maximum difference of outputs, relative to the largest output: the order of summation changes.
TOLERANCE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    add_model_arguments(parser)
    parser.add_argument(
        "--table", type=Path, required=True, help="task table of the tuned, unpruned model (JSON)"
    )
    parser.add_argument("--out", type=Path, required=True, help="output file, in the format of the input")
    parser.add_argument(
        "--mode", choices=MODES, default="up", help="direction to round in (default: %(default)s)"
    )
    parser.add_argument(
        "--max-growth",
        type=float,
        default=0.5,
        help="maximum fraction of a layer's channels to add (default: %(default)s)",
    )
    parser.add_argument(
        "--no-timing",
        action="store_true",
        help="write the file without compiling, comparing and timing the models",
    )


def run(options: argparse.Namespace) -> None:
    if options.out.suffix != options.model.suffix:
        raise CPruneError(f"--out is {options.out}, expected a {options.model.suffix} file like the model")
    table, shape = TaskTable.load(options.table), parse_shape(options.input_shape)
    file = ModelFile.load(options.model, shape)
    values = {name: value.numpy() for name, value in file.params.items()}
    # A file cannot cut padding off: that would be a new operator.
    rounding = RoundingOptions(options.mode, options.max_growth, cut=False)
    rounded = round_function(file.mod["main"], table, rounding, parameters=values)
    console = Console()
    console.print(summary(rounded.roundings))
    with replaced(options.out) as temporary:
        file.save(rounded.parameters, temporary)
        saved, timing = ModelFile.load(temporary, shape), ""
        check_file(saved, file, options.mode)
        if not options.no_timing:
            before, after = measure(file.relay(table.tuner), saved.relay(table.tuner), table, options)
            timing = (
                f"before {before.median * 1e3:.3f} ± {before.spread * 1e3:.3f} ms, "
                f"after {after.median * 1e3:.3f} ± {after.spread * 1e3:.3f} ms: "
                f"{before.median / after.median:.2f} times as fast; "
            )
    console.print(f"{timing}wrote {options.out}")


def tolerance(mode: str) -> float:
    """Return the largest relative error of the outputs. Only rounding up preserves them."""
    return TOLERANCE if mode == "up" else math.inf


def check_file(saved: ModelFile, original: ModelFile, mode: str) -> None:
    """Compare the outputs of two model files, in PyTorch or, where it is installed, in ONNX Runtime.

    Raises
    ------
    CPruneError
        If ONNX Runtime rejects a model, or an output is not finite, has another shape, or differs
        by more than the mode allows.
    """
    data = sample_input(original.shape)
    actual, expected = (_outputs(file.source, data) for file in (saved, original))
    if actual is not None and expected is not None:
        compare_outputs(actual, expected, tolerance(mode), "the rounded file")


def _outputs(source: Any, data: Array) -> list[Array] | None:
    """Return a model's outputs; None for an ONNX model without ONNX Runtime."""
    if isinstance(source, torch.nn.Module):
        return torch_outputs(source, data)
    execute = onnx_session(source.SerializeToString())
    return None if execute is None else execute(data)


def summary(roundings: tuple[Rounding, ...]) -> Table:
    """Return a table of the old and new widths with their reasons."""
    table = Table("layers", "channels", "reason")
    for rounding in roundings:
        width = f"{rounding.width} → {rounding.new_width}" if rounding.changed else str(rounding.width)
        table.add_row(", ".join(rounding.layers), width, rounding.reason)
    return table


def measure(
    old: RelayModel, new: RelayModel, table: TaskTable, options: argparse.Namespace
) -> tuple[Latency, Latency]:
    """Compile both models with the table's programs, compare their outputs and time them side by side.

    Raises
    ------
    CPruneError
        If the mode is "up" and the outputs differ.
    """
    config = PruneConfig(
        tune=TuneConfig(tuner=table.tuner, threads=table.threads, cold_weights=table.cold_weights)
    )
    with tempfile.TemporaryDirectory() as name:
        folder, records = Path(name), options.table.parent / "records"
        if records.is_dir():  # more donors: a slower program may fit where the table's does not
            shutil.copytree(records, folder / "records")
        with Compiler(config, old.input_shape, folder, table.target) as compiler:
            libraries = {
                "before": compiler.compile(old, table, "before")[1],
                "after": compiler.compile(new, table, "after")[1],
            }
            data = sample_input(old.input_shape)
            before, after = (compiler.measurer.run_model(library, data) for library in libraries.values())
            compare_outputs(after, before, tolerance(options.mode), "the rounded model")
            times = compiler.time_libraries(libraries)
    return times["before"], times["after"]
