# SPDX-License-Identifier: Apache-2.0
"""Helpers for the benchmarks: the machine's description, a tuned ResNet-18, median and spread."""

import os
import platform
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tutorials" / "frontend"))
os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))
# Figures must not depend on what this machine tuned before.
os.environ.setdefault("CPRUNE_LIBRARY", "none")

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
    """Print the CPU, operating system, versions and target that the following figures belong to."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ")[1] for line in lines if "model name" in line), "unknown CPU")
    system = f"{platform.system()}, Python {platform.python_version()}"
    print(f"# {cpu}, {host_threads()} cores, {system}")
    print(f"# TVM {tvm.__version__}, torch {torch.__version__}, target {host_target()}")


def median(values: list[float]) -> float:
    """Return the median."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: list[float]) -> float:
    """Return half the interquartile range."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return (ordered[round(0.75 * last)] - ordered[round(0.25 * last)]) / 2


def latency_at(level: float, points: list[tuple[float, float]]) -> float | None:
    """Return the lowest latency at an accuracy, interpolated between points of accuracy and latency.

    Another measure of what a pruned network keeps can take the place of the accuracy.
    """
    found = [latency for accuracy, latency in points if accuracy >= level]
    for (low, fast), (high, slow) in pairwise(sorted(points)):
        if low < level <= high:
            found.append(fast + (slow - fast) * (level - low) / (high - low))
    return min(found, default=None)


def resnet18_compiler(folder: Path = CACHE / "resnet18") -> Compiler:
    """Return a compiler that keeps its records in ``folder``, so that all benchmarks share one tuning run."""
    config = PruneConfig(tune=TuneConfig(trials=TRIALS), measure_repeats=100)
    return Compiler(config, SHAPE, folder, report=ConsoleReport())


def resnet18() -> torch.nn.Module:
    """Return ResNet-18 for 32x32 images (0.56 G multiply-accumulates) with random weights."""
    torch.manual_seed(0)
    return make_model("resnet18", 3, 10).eval()


def tune_resnet18(compiler: Compiler) -> Candidate:
    """Tune ResNet-18 with 16 trials per task, or reuse its records, and print the trials and the time."""
    before = compiler.programs.trials()["search"]
    candidate = compiler.tune(resnet18())
    after = compiler.programs.trials()["search"]
    seconds = compiler.seconds()["search"]
    print(f"# tuned with {TRIALS} trials per task: {after} programs, {after - before} new in {seconds:.0f} s")
    return candidate
