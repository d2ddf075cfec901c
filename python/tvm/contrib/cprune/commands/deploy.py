# SPDX-License-Identifier: Apache-2.0
"""Build a run's pruned model for a device, check its outputs there, time it, and write a bundle.

    python -m tvm.contrib.cprune deploy runs/mine
    python -m tvm.contrib.cprune deploy runs/mine --tracker 127.0.0.1:9190 --device-key phone
    python -m tvm.contrib.cprune deploy --check runs/mine/bundle

The device's outputs are compared with PyTorch's, and the unpruned model is timed beside the pruned one. The
bundle holds the library, the graph, the parameters, labels, the tuning records and two short programs that
load them; manifest.json lists a SHA-256 of each file.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm.contrib.cprune.building.build import build
from tvm.contrib.cprune.building.bundle import check_bundle, write_bundle
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.importers.model_file import ModelFile
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.tracker import TRACKER_HELP, Tracker
from tvm.contrib.cprune.models.reference import check_batches, compare_with_torch
from tvm.contrib.cprune.numerics import OutputError
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.presets import NAMES
from tvm.contrib.cprune.types import CPruneError, Latency

# Largest difference between the device's outputs and PyTorch's, as a fraction of the largest output.
TOLERANCE = 1e-3
Samples = npt.NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to ``parser``."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    parser.add_argument("run", type=Path, help="folder of a finished run; with --check, of a bundle")
    parser.add_argument("--check", action="store_true", help="only verify the files of a bundle")
    parser.add_argument("--target", help=f"{', '.join(NAMES)}, or a TVM target (default: the run's)")
    parser.add_argument("--tracker", help=TRACKER_HELP)
    parser.add_argument("--device-key", help="key of the tracker's devices to use")
    parser.add_argument(
        "--repeats", type=int, default=100, help="timed runs of each model (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder of the bundle (default: bundle/ in the run folder)")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    if options.check:
        print(f"verified {check_bundle(options.run)} files of {options.run}")
        return
    settings = _settings(options.run)
    shape = tuple(settings["input_shape"])
    for file in ("model.pt", "unpruned.pt"):
        if not (options.run / file).exists():
            raise CPruneError(f"{options.run} has no {file}: finish the run first (--resume)")
    tracker = Tracker.from_options(options.tracker, options.device_key)
    table = TaskTable.load(options.run / "table.json")
    tune = TuneConfig(tuner=table.tuner, threads=table.threads, cold_weights=table.cold_weights)
    config = PruneConfig(tune=tune, measure_repeats=options.repeats)
    target = options.target or settings["preset"]
    with tempfile.TemporaryDirectory() as name, ConsoleReport() as report:
        shutil.copytree(options.run / "records", Path(name) / "records")
        with Compiler(config, shape, Path(name), target, report, tracker=tracker) as compiler:
            _deploy(options, settings, compiler, table, report)


def _deploy(
    options: argparse.Namespace,
    settings: dict[str, Any],
    compiler: Compiler,
    table: TaskTable,
    report: ConsoleReport,
) -> None:
    """Compile both models, compare the pruned one with PyTorch, time both, and write the bundle."""
    shape = compiler.input_shape
    pruned = ModelFile.load(options.run / "model.pt", shape)
    unpruned = ModelFile.load(options.run / "unpruned.pt", shape)
    unpruned_table = TaskTable.load(options.run / "table_unpruned.json")
    relay_model = pruned.relay(table.tuner)
    device_table = compiler.tuner.transplant(relay_model, table)
    library, path = build(relay_model, device_table), compiler.run_dir / "pruned.so"
    compiler.preset.link(library, path)
    _, unpruned_path = compiler.compile(unpruned.relay(unpruned_table.tuner), unpruned_table, "unpruned")
    batches = check_batches(shape, _samples(options.run))
    execute = partial(compiler.measurer.run_model, path)
    error = compare_with_torch(pruned.source, execute, batches, TOLERANCE, "the device")
    report.say(f"outputs differ from PyTorch's by at most {error.max_rel:.1e} of the largest output")
    times = compiler.time_libraries({"pruned": path, "unpruned": unpruned_path})
    for model, latency in times.items():
        report.say(_line(model, latency, shape[0]))
    folder = options.out or options.run / "bundle"
    facts = _facts(settings, times, error)
    write_bundle(folder, library, device_table, compiler.preset, shape, settings.get("classes", ()), facts)
    report.say(f"wrote {folder}")


def _settings(run_dir: Path) -> dict[str, Any]:
    """Return the settings of a run."""
    path = run_dir / "config.json"
    try:
        settings = dict(json.loads(path.read_text()))
    except OSError as error:
        raise CPruneError(f"{run_dir} is not the folder of a run: config.json: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise CPruneError(f"{path} is damaged: {error!r}") from None
    missing = [name for name in ("input_shape", "preset") if name not in settings]
    if missing:
        raise CPruneError(f"{path} has no {missing[0]}: it was written by an older version of CPrune")
    return settings


def _samples(run_dir: Path) -> Samples | None:
    """Return the inputs that the run kept, None if it kept none."""
    path = run_dir / "samples.npy"
    if not path.exists():
        return None
    samples: Samples = np.load(path, allow_pickle=False)
    return samples


def _line(model: str, latency: Latency, batch: int) -> str:
    """Return a model's latency in milliseconds as one line."""
    times = sorted(sample * 1e3 for sample in latency.samples)
    percentiles = ", ".join(
        f"p{percent} {times[min(len(times) - 1, int(len(times) * percent / 100))]:.3f}"
        for percent in (90, 95, 99)
    )
    return (
        f"{model:9} mean {statistics.mean(times):.3f} ms, median {statistics.median(times):.3f}, "
        f"standard deviation {statistics.pstdev(times):.3f}, {percentiles}; "
        f"{batch / latency.median:.0f} images per second"
    )


def _facts(settings: dict[str, Any], times: dict[str, Latency], error: OutputError) -> dict[str, Any]:
    """Return what the manifest records about the models."""
    return {
        "model": settings.get("model"),
        "dataset": settings.get("dataset"),
        "latency_ms": {model: latency.median * 1e3 for model, latency in times.items()},
        "output_error": asdict(error),
    }
