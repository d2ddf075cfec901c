# SPDX-License-Identifier: Apache-2.0
"""Which classification networks of torchvision can be pruned and compiled, and why others are refused.

    python benchmarks/coverage.py --networks resnet18 vit_b_32
    python benchmarks/coverage.py

Each network has random weights and the smallest input that it accepts. It is imported, its tasks are
extracted, its channels are grouped, its widest group is halved, and the pruned model is reloaded from a
checkpoint, imported and built without tuned programs. A network is refused by a ``CPruneError``; any other
exception is a failure of CPrune, and the exit code is 1. Results are appended to ``--out``; networks that it
contains are skipped.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common import CACHE
from tvm.contrib.cprune.building.build import build
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.reference import torch_outputs
from tvm.contrib.cprune.models.torchvision_models import load_torchvision, torchvision_names
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.types import ChannelStep, CPruneError

SIZES = (32, 64, 75, 96, 128, 224)
Row = dict[str, Any]


def smallest_shape(model: torch.nn.Module) -> tuple[int, ...]:
    """Return the smallest input that a network accepts."""
    error: Exception | None = None
    for size in SIZES:
        shape = (1, 3, size, size)
        try:
            with torch.no_grad():
                model(torch.zeros(shape))
            return shape
        except (RuntimeError, AssertionError, ValueError) as failure:
            error = failure
    raise CPruneError(f"the network accepts no input of {', '.join(map(str, SIZES))} pixels: {error}")


def halve_widest(prunable: PrunableModel) -> PrunableModel:
    """Return a copy whose widest group has about half of its channels."""
    groups = [group for group in prunable.groups().groups if group.width >= 2 * group.round_to]
    if not groups:
        reasons = dict.fromkeys(prunable.groups().unprunable.values())
        raise CPruneError(f"no layer can be pruned: {'; '.join(reasons)}")
    group = max(groups, key=lambda group: group.width)
    width = group.width // 2 // group.round_to * group.round_to
    return prunable.shrink([ChannelStep(group, width, "")], partial(score, importance="l1", seed=0))


def reload(small: torch.nn.Module, model: torch.nn.Module, shape: tuple[int, ...]) -> torch.nn.Module:
    """Save and load a pruned model, and compare its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), "small", small)
        loaded = load_checkpoint(Path(folder), "small", model).eval()
    data = torch.rand(shape).numpy()
    for output, reference in zip(torch_outputs(loaded, data), torch_outputs(small, data), strict=True):
        torch.testing.assert_close(torch.from_numpy(output), torch.from_numpy(reference))
    return loaded


def check(row: Row, model: torch.nn.Module, with_build: bool) -> None:
    """Take a network through every stage; ``row["stage"]`` is the current one."""
    target = pinned_target(host_target())
    row["stage"] = "input"
    shape = smallest_shape(model)
    row["size"] = shape[-1]
    row["stage"] = "import"
    relay_model = from_torch(model, shape)
    row["stage"] = "extraction"
    row["tasks"] = len(extract_from_program(relay_model.mod, None, target))
    row["stage"] = "grouping"
    prunable = PrunableModel.trace(model, shape)
    groups = prunable.groups()
    row["groups"], row["layers"], row["kept"] = len(groups.groups), len(groups.layers), len(groups.unprunable)
    row["stage"] = "shrink"
    small = halve_widest(prunable).model
    row["stage"] = "reload"
    loaded = reload(small, model, shape)
    row["stage"] = "import of the pruned model"
    relay_model = from_torch(loaded, shape)
    if with_build:
        row["stage"] = "build"
        build(relay_model, TaskTable((), str(target), 1, True), strict=False)
    row["stage"] = ""


def result_of(network: str, stages: Callable[[Row], None]) -> Row:
    """Return the row of a network: works, refused or failed, and the reason in one line."""
    row: Row = {"network": network, "stage": "load"}
    started = time.monotonic()
    try:
        stages(row)
        row.update(verdict="works", reason="")
    except CPruneError as error:
        row.update(verdict="refused", reason=" ".join(str(error).split()))
    except Exception as error:  # every other exception is a failure of CPrune
        row.update(verdict="failed", reason=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
    row["seconds"] = round(time.monotonic() - started, 1)
    return row


def check_network(network: str, with_build: bool) -> Row:
    """Return the row of a torchvision network."""
    torch.manual_seed(0)
    return result_of(network, lambda row: check(row, load_torchvision(network, 10).eval(), with_build))


def check_in_process(network: str, with_build: bool, timeout: float) -> Row:
    """Check a network in a process of its own, which returns its memory, and whose crash is a failure."""
    command = [sys.executable, __file__, "--worker", network, *([] if with_build else ["--no-build"])]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {
            "network": network,
            "stage": "",
            "verdict": "failed",
            "reason": f"no result in {timeout:.0f} s",
        }
    lines = process.stdout.splitlines()
    if process.returncode or not lines:
        last = (process.stderr.strip().splitlines() or [""])[-1]
        reason = f"the process ended with code {process.returncode}: {last}"
        return {"network": network, "stage": "", "verdict": "failed", "reason": reason}
    row: Row = json.loads(lines[-1])
    return row


def line(row: Row) -> str:
    """Return a row of the printed table, which is also one of the Markdown table in ``docs/coverage.md``."""
    pruned = f"{row['layers'] - row['kept']} of {row['layers']}" if "layers" in row else ""
    where = f"{row['stage']}: " if row["stage"] else ""
    return (
        f"| {row['network']} | {row.get('size', '')} | {pruned} | {row['verdict']} | {where}{row['reason']} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="networks to check (default: all)")
    parser.add_argument("--no-build", action="store_true", help="skip the build of the pruned network")
    parser.add_argument(
        "--out", type=Path, default=CACHE / "coverage.jsonl", help="results, one JSON per line"
    )
    parser.add_argument("--timeout", type=float, default=1800, help="seconds per network (default: 1800)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(check_network(args.worker, not args.no_build)))
        return 0
    networks = args.networks or torchvision_names()
    unknown = sorted(set(networks) - set(torchvision_names()))
    if unknown:
        parser.error(f"unknown network {unknown[0]!r}; expected some of {', '.join(torchvision_names())}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    finished = [json.loads(text) for text in args.out.read_text().splitlines()] if args.out.exists() else []
    rows: dict[str, Row] = {row["network"]: row for row in finished}
    print("| network | input | pruned layers | verdict | reason |\n|---|---|---|---|---|")
    for network in networks:
        if network not in rows:
            rows[network] = check_in_process(network, not args.no_build, args.timeout)
            with args.out.open("a") as out:
                out.write(json.dumps(rows[network]) + "\n")
        print(line(rows[network]), flush=True)
    return int(any(rows[network]["verdict"] == "failed" for network in networks))


if __name__ == "__main__":
    sys.exit(main())
