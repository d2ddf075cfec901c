# SPDX-License-Identifier: Apache-2.0
"""Winograd and direct 3x3 convolutions of ResNet-18 at 224x224, compared with ONNX Runtime and a bound.

    python benchmarks/winograd.py
    python benchmarks/winograd.py --shapes 64@56 --trials 64

Each layer, a convolution with bias and ReLU, is tuned alone with both algorithms. The models are then timed
in turn with ONNX Runtime's. The bound is the time of Winograd's product at the speed of a large matrix
product, plus that of its weights at the speed of memory. The stages of the Winograd program are timed one by
one with warm weights. Goals: at most 0.55 of ONNX Runtime's time, 0.75 at 512@7.
"""

import argparse
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tvm.auto_scheduler import LayoutRewriteOption

import tvm
from bounds import speed_of_memory, speed_of_products
from common import CACHE, median, print_machine, spread
from peers import OURS, RUNTIMES, Peer, export_onnx, take_turns
from tvm import tir
from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.table import Row
from tvm.contrib.cprune.targets.codegen import codegen_context
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.transform.pin_algorithms import tile_size, winograd_algorithms

SHAPES = ("64@56", "128@28", "256@14", "512@7")
ROUNDS, RUNS = 8, 50
# Statements around the loops of a function.
_OUTER = (tir.Allocate, tir.DeclBuffer, tir.AttrStmt)


def time_stages(row: Row) -> list[float]:
    """Return the seconds of each stage of a program, with weights in the layout of a build."""
    dag, state = row.task.tvm_task.compute_dag, state_of(row.program.record)
    option = LayoutRewriteOption.REWRITE_FOR_PRE_TRANSFORMED
    schedule, tensors = dag.apply_steps_from_state(state, option)
    target = row.task.tvm_task.target
    arrays = [tvm.nd.array(np.random.rand(*map(int, tensor.shape)).astype("float32")) for tensor in tensors]
    stages = []
    with codegen_context(target):
        function = tvm.lower(schedule, tensors)["main"]
        for number in range(count_stages(function.body)):
            alone = function.with_body(keep_stage(function.body, number))
            module = tvm.build(tvm.IRModule({"main": alone}), target=target)
            timer = module.time_evaluator("main", tvm.cpu(), number=10, repeat=10)
            stages.append(median(list(timer(*arrays).results)))
    return stages


def count_stages(body: tir.Stmt) -> int:
    """Return the number of loops that follow each other, in the function or in its parallel loops."""
    if isinstance(body, tir.SeqStmt):
        return sum(count_stages(part) for part in body)
    return count_stages(body.body) if isinstance(body, _OUTER) or _is_parallel(body) else 1


def keep_stage(body: tir.Stmt, number: int) -> tir.Stmt:
    """Return a function's body with only one of its stages."""
    if isinstance(body, tir.SeqStmt):
        parts, first = [], 0
        for part in body:
            parts.append(keep_stage(part, number - first))
            first += count_stages(part)
        return tir.SeqStmt(parts)
    if isinstance(body, tir.Allocate):
        inner = keep_stage(body.body, number)
        return tir.Allocate(
            body.buffer_var, body.dtype, body.extents, body.condition, inner, body.annotations
        )
    if isinstance(body, tir.DeclBuffer):
        return tir.DeclBuffer(body.buffer, keep_stage(body.body, number))
    if isinstance(body, tir.AttrStmt):
        return tir.AttrStmt(body.node, body.attr_key, body.value, keep_stage(body.body, number))
    if _is_parallel(body):
        inner = keep_stage(body.body, number)
        return tir.For(body.loop_var, body.min, body.extent, body.kind, inner, None, body.annotations)
    return body if number == 0 else tir.Evaluate(0)


def _is_parallel(body: tir.Stmt) -> bool:
    return isinstance(body, tir.For) and body.kind == tir.ForKind.PARALLEL


def time_all(
    candidates: dict[str, Candidate], shape: tuple[int, ...], folder: Path
) -> dict[str, list[float]]:
    """Time the compiled layers and ONNX Runtime's in turn, after a comparison of their outputs."""
    model, data, names = candidates["direct"].model, sample_input(shape), [*candidates, "ONNX Runtime"]
    export_onnx(model, shape, folder / "ONNX Runtime")
    for name, candidate in candidates.items():
        (folder / name).mkdir(exist_ok=True)
        shutil.copy(candidate.library, folder / name / RUNTIMES[OURS][0])
    with torch.no_grad():
        expected = model(torch.from_numpy(data)).numpy()
    with ExitStack() as processes:
        peers = [
            processes.enter_context(
                Peer(OURS if name in candidates else name, folder / name, data, host_threads())
            )
            for name in names
        ]
        for peer in peers:
            peer.check(expected)
        return dict(zip(names, take_turns(peers, ROUNDS, RUNS), strict=True))


def compare(name: str, trials: int, products: float, memory: float) -> None:
    """Tune one layer and print its row."""
    channels, size = map(int, name.split("@"))
    shape = (1, channels, size, size)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()).eval()
    config, folder = PruneConfig(tune=TuneConfig(trials=trials)), CACHE / "winograd" / f"{name}-{trials}"
    with ConsoleReport() as report, Compiler(config, shape, folder, report=report) as compiler:
        compiler.tune(model)
        algorithms = winograd_algorithms(compiler.import_model(model).mod)
        candidates = {"direct": compiler.tune(model, {}), "winograd": compiler.tune(model, algorithms)}
    times = time_all(candidates, shape, folder)
    stages = time_stages(max(candidates["winograd"].table.rows, key=lambda row: row.task.flops))
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
