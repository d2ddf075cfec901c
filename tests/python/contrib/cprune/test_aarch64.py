# SPDX-License-Identifier: Apache-2.0
"""A pruned network is tuned on this machine, cross-compiled for AArch64 and run in an emulator."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import randomize_norms
from programs import FAST
from torch import nn

from tvm import auto_scheduler
from tvm.contrib.cprune.building.aot import export_c
from tvm.contrib.cprune.building.build import algorithms_of
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.measuring.records import dump
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import shrink
from tvm.contrib.cprune.table import Row, TaskTable, to_program
from tvm.contrib.cprune.targets.presets import PRESETS
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.tuning.ansor.steps import channel_splits
from tvm.contrib.cprune.tuning.ansor.transplant import transplant
from tvm.contrib.cprune.types import ChannelStep

GCC, QEMU, SYSROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
HARNESS = Path(__file__).parent / "aot"
SHAPE = (1, 3, 8, 8)

pytestmark = pytest.mark.skipif(
    not (shutil.which(GCC) and shutil.which(QEMU)),
    reason="apt install g++-aarch64-linux-gnu qemu-user to run code for AArch64",
)


class Net(nn.Module):
    """Four kinds of convolutions, a residual addition and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.mid = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 8, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.depthwise(torch.relu(self.mid(x)) + x))
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


def transplanted_table(table: TaskTable, mod) -> TaskTable:
    """Return a table of this machine's programs transplanted to AArch64, without measuring them."""
    target = PRESETS["arm64-linux"].make_target()
    rows = []
    for task in extract_from_program(mod, None, target, algorithms_of(table)):
        donor = next(
            row
            for row in table.rows
            if row.task.layers == task.layers and row.task.subgraphs[0].op == task.subgraphs[0].op
        )
        (variant, *_) = transplant(donor.program.record, donor.task, task, 1)
        result = auto_scheduler.MeasureResult([1.0], 0, "", 0.0, 0.0)
        rows.append(Row(task, to_program(task, dump(variant, result))))
    return TaskTable(tuple(rows), str(rows[0].task.tvm_task.target), 4, True)


def test_a_pruned_network_has_equal_outputs_on_aarch64(tmp_path):
    torch.manual_seed(0)
    model = randomize_norms(Net())
    group = find_groups(model, SHAPE).groups[0]
    model = shrink(model, SHAPE, [ChannelStep(group, 12, "")], lambda layer: score(layer, "l1", 0)).eval()
    with Compiler(PruneConfig(tune=FAST, measure_repeats=3), SHAPE, tmp_path / "run") as compiler:
        tuned = compiler.tune(model)
    table = transplanted_table(tuned.table, tuned.relay.mod)
    assert any(
        split.lengths for row in table.rows for split in channel_splits(row.task, row.program.record)[0]
    )

    files = export_c(tuned.relay, table, tmp_path / "c")
    program = tmp_path / "program"
    sizes = [f"-DINPUTS={np.prod(SHAPE)}", "-DOUTPUTS=10"]
    sources = [str(path) for path in (HARNESS / "main.c", *files)]
    subprocess.run(
        [GCC, "-O1", "-w", f"-I{HARNESS}", *sizes, *sources, "-lm", "-o", str(program)], check=True
    )
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    data.tofile(tmp_path / "input.bin")
    run = [QEMU, "-L", SYSROOT, str(program), str(tmp_path / "input.bin"), str(tmp_path / "output.bin")]
    subprocess.run(run, check=True)
    output = np.fromfile(tmp_path / "output.bin", "float32")
    expected = model(torch.tensor(data)).detach().numpy().reshape(-1)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
