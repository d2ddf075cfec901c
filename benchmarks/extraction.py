# SPDX-License-Identifier: Apache-2.0
"""Speed of extracting ResNet-18's tasks again after pruning one channel group, with the lowering cache.

python benchmarks/extraction.py
"""

import time

from common import SHAPE, median, print_machine, resnet18, spread
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import shrink
from tvm.contrib.cprune.targets.target import host_target
from tvm.contrib.cprune.tasks import LoweringCache, extract_from_program
from tvm.contrib.cprune.types import ChannelStep

ROUNDS = 7


def main() -> None:
    print_machine()
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


if __name__ == "__main__":
    main()
