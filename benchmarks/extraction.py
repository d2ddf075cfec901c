# SPDX-License-Identifier: Apache-2.0
"""Speed of extracting ResNet-18's tasks again after pruning one channel group, and of building a candidate.

python benchmarks/extraction.py

The extraction is that of the network for 32x32 images. The candidates are torchvision's ResNet-18 at 224x224
with another width of one group; the first run tunes it with 4 trials per task.
"""

import shutil
import time

import torch

from common import CACHE, SHAPE, median, print_machine, resnet18, spread
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import shrink
from tvm.contrib.cprune.models.torchvision_models import load_torchvision
from tvm.contrib.cprune.targets.target import host_target
from tvm.contrib.cprune.tasks import LoweringCache, extract_from_program
from tvm.contrib.cprune.types import ChannelStep

ROUNDS = 7
# Widths of the group that candidates shrink, 128 before.
WIDTHS = (112, 96, 80, 64, 48)
LARGE = (1, 3, 224, 224)


def time_extraction() -> None:
    """Compare the first extraction with that of a pruned model."""
    model = resnet18()
    group = find_groups(model, SHAPE).of_layer("stages.1.0.conv1")
    assert group is not None
    small = shrink(model, SHAPE, [ChannelStep(group, 96, "")], lambda group: score(group, "l1", 0))
    first, second, lowered = [], [], (0, 0)
    for _ in range(ROUNDS):
        cache = LoweringCache()
        before = from_torch(model, SHAPE)
        after = from_torch(small, SHAPE)
        for mod, seconds in ((before.mod, first), (after.mod, second)):
            started = time.perf_counter()
            tasks = extract_from_program(mod, None, host_target(), cache=cache)
            seconds.append(time.perf_counter() - started)
            lowered = (lowered[1], cache.lowered)
    print(f"{len(tasks)} tasks; {group.root} pruned from {group.width} to 96 channels")
    print(
        f"first extraction   {median(first) * 1e3:7.1f} ± {spread(first) * 1e3:.1f} ms, "
        f"{lowered[0]} functions lowered"
    )
    again = lowered[1] - lowered[0]
    print(
        f"second extraction  {median(second) * 1e3:7.1f} ± {spread(second) * 1e3:.1f} ms, "
        f"{again} functions lowered"
    )
    ratio = median([b / a for a, b in zip(first, second, strict=True)])
    print(f"second over first  {ratio:7.3f}   (goal: at most 0.25; {ROUNDS} interleaved rounds)")


def time_builds() -> None:
    """Print the seconds that a candidate of ResNet-18 at 224x224 takes from its programs to a library."""
    torch.manual_seed(0)
    model = load_torchvision("resnet18", 1000).eval()
    config = PruneConfig(tune=TuneConfig(trials=4, batch=4))
    with (
        ConsoleReport() as report,
        Compiler(config, LARGE, CACHE / "extraction", report=report) as compiler,
    ):
        # Object files of an earlier run would replace the compilation.
        shutil.rmtree(compiler.run_dir / "build", ignore_errors=True)
        base = compiler.tune(model)
        group = find_groups(model, LARGE).of_layer("layer2.0.conv1")
        assert group is not None
        builds = []
        for width in WIDTHS:
            small = shrink(model, LARGE, [ChannelStep(group, width, "")], lambda group: score(group, "l1", 0))
            before = compiler.seconds().get("build", 0.0)
            compiler.move(base, small, weights=False)
            builds.append(compiler.seconds()["build"] - before)
    print(
        f"candidate's build  {median(builds):7.2f} ± {spread(builds):.2f} s   "
        f"(goal: at most 3; {len(WIDTHS)} widths of {group.root})"
    )


def main() -> None:
    print_machine()
    time_extraction()
    time_builds()


if __name__ == "__main__":
    main()
