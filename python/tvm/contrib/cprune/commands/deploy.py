# SPDX-License-Identifier: Apache-2.0
"""Build a run's pruned model for its target, check it on the device, time it, and leave a bundle.

    python -m tvm.contrib.cprune deploy runs/mine
    python -m tvm.contrib.cprune deploy runs/mine --tracker 127.0.0.1:9190 --device-key phone
    python -m tvm.contrib.cprune deploy --check runs/mine/bundle

The device's outputs are compared with PyTorch's, and the unpruned model is timed beside the pruned one. The
bundle holds the library, the graph, the parameters, labels, the tuning records and two short programs that
load it; manifest.json has a SHA-256 of each file.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvm.contrib.cprune.building.build import build
from tvm.contrib.cprune.building.bundle import check_bundle, write_bundle
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.importers.model_file import ModelFile
from tvm.contrib.cprune.loop.report import ConsoleReport
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.presets import NAMES
from tvm.contrib.cprune.types import CPruneError, Latency

# Largest difference between the device's outputs and PyTorch's, as a share of the largest output.
TOLERANCE = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    parser.add_argument("run", type=Path, help="folder of a finished run; with --check, a bundle")
    parser.add_argument("--check", action="store_true", help="only check a bundle's files")
    parser.add_argument("--target", help=f"{', '.join(NAMES)}, or a target of TVM (default: the run's)")
    parser.add_argument("--tracker", help="host:port (or TVM_TRACKER_HOST and TVM_TRACKER_PORT)")
    parser.add_argument("--device-key", help="which of the tracker's devices")
    parser.add_argument("--repeats", type=int, default=100, help="timed runs (%(default)s)")
    parser.add_argument("--out", type=Path, help="bundle's folder (default: bundle in the run's)")


def run(options: argparse.Namespace) -> None:
    if options.check:
        print(f"{check_bundle(options.run)} files of {options.run} are as they were written")
        return
    settings = _settings(options.run)
    shape = tuple(settings["input_shape"])
    tracker = Tracker.asked_for(options.tracker, options.device_key)
    pruned, table = _model(options.run, "model.pt", shape), TaskTable.load(options.run / "table.json")
    unpruned = _model(options.run, "unpruned.pt", shape)
    donor = TaskTable.load(options.run / "table_unpruned.json")
    target = options.target or settings["preset"]
    tune = TuneConfig(tuner=table.tuner, threads=table.threads, cold_weights=table.cold_weights)
    config = PruneConfig(tune=tune, measure_repeats=options.repeats)
    with tempfile.TemporaryDirectory() as name, ConsoleReport() as report:
        shutil.copytree(options.run / "records", Path(name) / "records")
        with Compiler(config, shape, Path(name), target, report, tracker=tracker) as compiler:
            relay_model = pruned.relay(table.tuner)
            own = compiler.fit(relay_model, table)
            library, path = build(relay_model, own), Path(name) / "pruned.so"
            compiler.preset.link(library, path)
            _, other = compiler.compile(unpruned.relay(donor.tuner), donor, "unpruned")
            error = _check_outputs(compiler, path, pruned.source, _samples(options.run, shape))
            report.say(f"outputs differ from PyTorch's by {error:.1e} of the largest")
            times = compiler.time_libraries({"pruned": path, "unpruned": other})
            for which, latency in times.items():
                report.say(_line(which, latency, shape[0]))
            folder = options.out or options.run / "bundle"
            classes, facts = settings.get("classes", ()), _facts(settings, times, error)
            write_bundle(folder, library, own, compiler.preset, shape, classes, facts)
            report.say(f"bundle: {folder}")


def _settings(run_dir: Path) -> dict[str, Any]:
    try:
        settings = dict(json.loads((run_dir / "config.json").read_text()))
    except OSError as error:
        raise CPruneError(f"{run_dir} is no run's folder: config.json: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise CPruneError(f"{run_dir / 'config.json'} is damaged: {error!r}") from None
    missing = [name for name in ("input_shape", "preset") if name not in settings]
    if missing:
        raise CPruneError(f"{run_dir / 'config.json'} has no {missing[0]}: an older CPrune wrote it")
    return settings


def _model(run_dir: Path, name: str, shape: tuple[int, ...]) -> ModelFile:
    if not (run_dir / name).exists():
        raise CPruneError(f"{run_dir} has no {name}: finish the run first (--resume)")
    return ModelFile.load(run_dir / name, shape)


def _samples(run_dir: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return real inputs that the run kept, one batch a row."""
    path = run_dir / "samples.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    return np.random.default_rng(0).standard_normal((4, *shape[1:])).astype("float32")


def _check_outputs(compiler: Compiler, library: Path, model: torch.nn.Module, samples: np.ndarray) -> float:
    batch, worst = compiler.input_shape[0], 0.0
    for start in range(0, len(samples) - batch + 1, batch):
        data = np.ascontiguousarray(samples[start : start + batch])
        found = compiler.pool.run_model(library, data)
        with torch.no_grad():
            expected = model(torch.from_numpy(data)).numpy()
        worst = max(worst, float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)))
    if worst > TOLERANCE:
        raise CPruneError(f"the device's outputs differ from PyTorch's by {worst:.1e}, expected {TOLERANCE}")
    return worst


def _line(which: str, latency: Latency, batch: int) -> str:
    """Return what a model's timing says in one line, in milliseconds."""
    times = sorted(sample * 1e3 for sample in latency.samples)
    at = {share: times[min(len(times) - 1, int(len(times) * share / 100))] for share in (90, 95, 99)}
    percentiles = ", ".join(f"p{share} {value:.3f}" for share, value in at.items())
    return (
        f"{which:9} mean {statistics.mean(times):.3f} ms, median {statistics.median(times):.3f}, "
        f"standard deviation {statistics.pstdev(times):.3f}, {percentiles}; "
        f"{batch / latency.median:.0f} images a second"
    )


def _facts(settings: dict[str, Any], times: dict[str, Latency], error: float) -> dict[str, Any]:
    return {
        "model": settings.get("model"),
        "dataset": settings.get("dataset"),
        "latency_ms": {name: latency.median * 1e3 for name, latency in times.items()},
        "largest_difference_from_pytorch": error,
    }
