# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: what machine this is, a tuned ResNet-18, medians with spread."""

import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tutorials" / "frontend"))
os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import torch

import tvm
from models import make_model
from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.targets.target import host_target, host_threads

CACHE = ROOT / "build" / "benchmarks"
SHAPE = (1, 3, 32, 32)
TRIALS = 16


def print_machine() -> None:
    """Print on what the figures that follow were measured."""
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?: ?"
    )
    print(
        f"# {cpu.split(': ')[1]}, {host_threads()} cores, {platform.system()}, "
        f"Python {platform.python_version()},"
    )
    print(f"# TVM {tvm.__version__}, torch {torch.__version__}, target {host_target()}")


def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: list[float]) -> float:
    """Return half of the distance between the quartiles."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return (ordered[round(0.75 * last)] - ordered[round(0.25 * last)]) / 2


def resnet18_compiler(folder: Path = CACHE / "resnet18") -> Compiler:
    """Return a compiler whose records stay in ``folder``: ResNet-18 is tuned once for all benchmarks."""
    config = PruneConfig(tune=TuneConfig(trials=TRIALS), measure_repeats=100)
    return Compiler(config, SHAPE, folder, report=ConsoleReport())


def resnet18() -> torch.nn.Module:
    """Return ResNet-18 for 32x32 images (0.56 G multiply-accumulates) with random weights."""
    torch.manual_seed(0)
    return make_model("resnet18", 3, 10).eval()


def tune_resnet18(compiler: Compiler) -> Candidate:
    """Return ResNet-18 tuned with 16 trials a task, and print what that took or where it came from."""
    before = compiler.programs.trials()["search"]
    candidate = compiler.tune(resnet18())
    now = compiler.programs.trials()["search"]
    seconds = compiler.seconds()["search"]
    print(
        f"# tuned with {TRIALS} trials a task: {now} programs, {now - before} of them now in {seconds:.0f} s"
    )
    return candidate
