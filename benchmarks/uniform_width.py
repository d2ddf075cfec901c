# SPDX-License-Identifier: Apache-2.0
"""Latency of ResNet-18 (32x32) at uniformly scaled widths by transplants, compared with ONNX Runtime.

    python benchmarks/uniform_width.py

The model is tuned once. All widths are multiplied by a factor, and in "rounded" rows then rounded down to the
next width that fits every program.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from common import CACHE, SHAPE, median, print_machine, resnet18, resnet18_compiler, spread, tune_resnet18
from peers import Peer, export_onnx
from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import macs_and_params, shrink
from tvm.contrib.cprune.step import joint_step
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import ChannelStep

FACTORS = ((0.875, False), (0.75, False), (0.5, False), (0.9, True), (0.7, True), (0.45, True))
ROUNDS = 8


def scaled(base: Candidate, factor: float, rounded: bool) -> torch.nn.Module:
    """Return the model with the width of every channel group multiplied by ``factor``."""
    steps = []
    for group in find_groups(base.model, SHAPE).groups:
        width = round(group.width * factor)
        if rounded:
            step = joint_step(group, base.table, start=width + 1)
            width = step.next_width if step else group.width
        if width < group.width:
            steps.append(ChannelStep(group, width, ""))
    return shrink(base.model, SHAPE, steps, lambda group: score(group, "l1", 0))


def time_both(compiler: Compiler, candidate: Candidate, folder: Path) -> tuple[list, list]:
    """Time a compiled model and ONNX Runtime alternately.

    Returns
    -------
    The seconds of each run of the compiled model and of ONNX Runtime.
    """
    export_onnx(candidate.model, SHAPE, folder)
    ours, theirs = [], []
    with Peer("ONNX Runtime", folder, sample_input(SHAPE), host_threads()) as peer:
        for _ in range(ROUNDS):
            ours += compiler.time({"model": candidate})["model"].samples
            time.sleep(0.1)
            theirs += peer.time(50)
            time.sleep(0.2)  # ONNX Runtime's threads keep spinning for a moment
    return ours, theirs


def row(compiler: Compiler, base: Candidate, factor: float, rounded: bool, folder: Path) -> tuple[str, float]:
    """Measure one width; returns its line of the table and the latency in seconds."""
    before, started = compiler.programs.trials(), time.perf_counter()
    candidate = base if factor == 1.0 else compiler.move(base, scaled(base, factor, rounded))
    seconds, now = time.perf_counter() - started, compiler.programs.trials()
    assert now["search"] == before["search"], "a task had no legal transplant and was searched"
    trials = now["transplant"] - before["transplant"]

    data = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    actual = compiler.measurer.run_model(candidate.library, data)[0]
    expected = candidate.model(torch.tensor(data)).detach().numpy()
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())

    ours, theirs = time_both(compiler, candidate, folder)
    macs, _ = macs_and_params(candidate.model, SHAPE)
    name = f"{factor:.3g}{' rounded' if rounded else ''}"
    times = [f"{median(t) * 1e3:.3f} ± {spread(t) * 1e3:.3f}" for t in (ours, theirs)]
    line = (
        f"{name:>15} {macs / 1e9:6.3f} {len(candidate.table.rows):6} {trials:6} {seconds:8.1f} "
        f"{times[0]:>14} {times[1]:>16} {error:8.1e}"
    )
    return line, median(ours)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print_machine()
    print(f"# onnxruntime {onnxruntime.__version__}, {host_threads()} threads each, batch 1, float32")
    with resnet18_compiler() as compiler:
        tune_resnet18(compiler)
    with tempfile.TemporaryDirectory() as name:
        # Copy the records of the search only, so that every transplant is measured here.
        folder = Path(name)
        for log in (CACHE / "resnet18" / "records").glob("*/search.json"):
            target = folder / "records" / log.parent.name
            target.mkdir(parents=True)
            shutil.copy(log, target)
        with resnet18_compiler(folder) as compiler:
            base, first = compiler.tune(resnet18()), 0.0
            head = f"{'width':>15} {'GMACs':>6} {'tasks':>6} {'trials':>6} {'seconds':>8} {'ours ms':>14} "
            print(head + f"{'ONNX Runtime ms':>16} {'error':>8} {'times as fast':>14}")
            for factor, rounded in ((1.0, False), *FACTORS):
                line, latency = row(compiler, base, factor, rounded, folder)
                first = first or latency
                print(f"{line} {first / latency:14.2f}", flush=True)
    print(
        "every task of every model ran with a transplanted program (a build fails otherwise); "
        "goal: 2.5 times as fast at 0.5"
    )


if __name__ == "__main__":
    main()
