# SPDX-License-Identifier: Apache-2.0
"""Winograd and direct 3x3 convolutions of ResNet-18 at 224x224, compared with ONNX Runtime and a bound.

    python benchmarks/winograd.py
    python benchmarks/winograd.py --shapes 64@56 --trials 64

Each layer, a convolution with bias and ReLU, is tuned alone with both algorithms. The models are then timed
in turn with ONNX Runtime's. The bound is the time of Winograd's product at the speed of a large matrix
product, plus that of its weights at the speed of memory. The stages are the top-level loops of the Winograd
program, timed one by one with warm weights. Goals: at most 0.55 of ONNX Runtime's time, 0.75 at 512@7.
"""

import argparse
import time

import numpy as np
import torch
from torch import nn
from tvm.auto_scheduler import LayoutRewriteOption

import tvm
from bounds import speed_of_memory, speed_of_products
from common import CACHE, median, print_machine, spread
from peers import Peer, export_onnx
from tvm import tir
from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.table import Row
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.transform.pin_algorithms import tile_size, winograd_algorithms

SHAPES = ("64@56", "128@28", "256@14", "512@7")
ROUNDS = 8


def time_stages(row: Row) -> list[float]:
    """Return the seconds of each top-level loop of a program, with weights in the layout of a build."""
    dag, state = row.task.tvm_task.compute_dag, state_of(row.program.record)
    option = LayoutRewriteOption.REWRITE_FOR_PRE_TRANSFORMED
    schedule, tensors = dag.apply_steps_from_state(state, option)
    function = tvm.lower(schedule, tensors)["main"]
    arrays = [tvm.nd.array(np.random.rand(*map(int, tensor.shape)).astype("float32")) for tensor in tensors]
    stages = []
    for number in range(count_loops(function.body)):
        alone = function.with_body(keep_loop(function.body, number))
        module = tvm.build(tvm.IRModule({"main": alone}), target=row.task.tvm_task.target)
        timer = module.time_evaluator("main", tvm.cpu(), number=10, repeat=10)
        stages.append(median(list(timer(*arrays).results)))
    return stages


def count_loops(body: tir.Stmt) -> int:
    """Return the number of top-level loops of a function."""
    if isinstance(body, tir.SeqStmt):
        return sum(count_loops(part) for part in body)
    return count_loops(body.body) if isinstance(body, tir.Allocate | tir.DeclBuffer | tir.AttrStmt) else 1


def keep_loop(body: tir.Stmt, number: int) -> tir.Stmt:
    """Return a function's body with only one of its top-level loops."""
    if isinstance(body, tir.SeqStmt):
        parts, first = [], 0
        for part in body:
            parts.append(keep_loop(part, number - first))
            first += count_loops(part)
        return tir.SeqStmt(parts)
    if isinstance(body, tir.Allocate):
        inner = keep_loop(body.body, number)
        return tir.Allocate(
            body.buffer_var, body.dtype, body.extents, body.condition, inner, body.annotations
        )
    if isinstance(body, tir.DeclBuffer):
        return tir.DeclBuffer(body.buffer, keep_loop(body.body, number))
    if isinstance(body, tir.AttrStmt):
        return tir.AttrStmt(body.node, body.attr_key, body.value, keep_loop(body.body, number))
    return body if number == 0 else tir.Evaluate(0)


def time_all(
    compiler: Compiler, candidates: dict[str, Candidate], shape: tuple[int, ...]
) -> dict[str, list[float]]:
    """Time the compiled layers and ONNX Runtime's in turn."""
    export_onnx(candidates["direct"].model, shape, compiler.run_dir)
    times: dict[str, list[float]] = {name: [] for name in (*candidates, "ONNX Runtime")}
    with Peer("ONNX Runtime", compiler.run_dir, sample_input(shape), host_threads()) as peer:
        for _ in range(ROUNDS):
            for name, latency in compiler.time(candidates).items():
                times[name] += latency.samples
            times[peer.name] += peer.time(50)
            time.sleep(0.2)  # ONNX Runtime's threads keep spinning for a moment
    return times


def compare(name: str, trials: int, products: float, memory: float) -> None:
    """Tune one layer and print its row."""
    channels, size = map(int, name.split("@"))
    shape = (1, channels, size, size)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()).eval()
    config = PruneConfig(tune=TuneConfig(trials=trials), measure_repeats=50)
    with (
        ConsoleReport() as report,
        Compiler(config, shape, CACHE / "winograd" / name, report=report) as compiler,
    ):
        compiler.tune(model)
        algorithms = winograd_algorithms(compiler.import_model(model).mod)
        candidates = {"direct": compiler.tune(model, {}), "winograd": compiler.tune(model, algorithms)}
        times = time_all(compiler, candidates, shape)
        row = max(candidates["winograd"].table.rows, key=lambda row: row.task.flops)
        stages = time_stages(row)
    (algorithm,) = algorithms.values()
    tile = tile_size(algorithm) or 0
    points, tiles = (tile + 2) ** 2, (-(-size // tile)) ** 2
    bound = 2 * points * tiles * channels**2 / products + 4 * points * channels**2 / memory
    medians = {key: median(values) for key, values in times.items()}
    cells = [f"{medians[key] * 1e3:.3f} ± {spread(times[key]) * 1e3:.3f}" for key in times]
    ratio, over_bound = medians["winograd"] / medians["ONNX Runtime"], medians["winograd"] / bound
    loops = ", ".join(f"{stage * 1e6:.0f}" for stage in stages)
    print(
        f"| {name} | {algorithm} | {' | '.join(cells)} | {ratio:.2f} | {over_bound:.2f} | {loops} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="C@SIZE")
    parser.add_argument("--trials", type=int, default=48, help="trials per task (default: %(default)s)")
    args = parser.parse_args()
    print_machine()
    products, memory = speed_of_products(), speed_of_memory()
    print(f"# products at {products / 1e9:.0f} GFLOP/s, memory at {memory / 1e9:.1f} GB/s")
    columns = ("direct, ms", "Winograd, ms", "ONNX Runtime, ms", "over it", "over the bound", "stages, us")
    print(f"| layer | algorithm | {' | '.join(columns)} |\n|---|---{'|---' * len(columns)}|")
    for name in args.shapes:
        compare(name, args.trials, products, memory)


if __name__ == "__main__":
    main()
