# SPDX-License-Identifier: Apache-2.0
"""Networks with random weights, untuned builds, and measurements in rounds, for benchmarks of latency."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from common import CACHE
from models import make_model
from tvm import relay
from tvm.contrib.cprune.files import append_lines, recover_lines, replaced
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.lowering import pass_context, quietly
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.tuning.backends import BACKENDS

CLASSES = 1000
# For estimates: seconds of a trial, and of importing, transplanting, compiling and timing a candidate.
TRIAL_SECONDS, CANDIDATE_SECONDS = 0.7, 15
# Convolutions with two algorithms make two tasks.
TASKS_PER_SHAPE = 1.6


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a network and its first tuning."""
    parser.add_argument(
        "--network", default="resnet18", help="such as torchvision/resnet18 (default: %(default)s)"
    )
    parser.add_argument("--image-size", type=int, default=32, help="rows and columns (default: %(default)s)")
    parser.add_argument(
        "--macs", type=float, default=0.5, help="multiply-accumulates to keep (default: %(default)s)"
    )
    parser.add_argument(
        "--trials", type=int, default=16, help="trials per task of the first tuning (default: %(default)s)"
    )


def make_network(args: argparse.Namespace) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the network with random weights, and the shape of its input."""
    torch.manual_seed(0)
    size: int = args.image_size
    return make_model(args.network, 3, CLASSES, size).eval(), (1, 3, size, size)


def folder_of(benchmark: str, args: argparse.Namespace, *others: int) -> Path:
    """Return the folder of a benchmark's results with its options."""
    options = (args.image_size, args.trials, args.macs, *others)
    return CACHE / benchmark / "-".join([args.network.replace("/", "-"), *map(str, options)])


def print_estimate(
    model: nn.Module, args: argparse.Namespace, tunings: float, trials: int, candidates: int
) -> None:
    """Print how long a benchmark takes on two cores.

    Parameters
    ----------
    tunings, trials, candidates
        Number of networks that are tuned with ``args.trials`` trials per task, of further trials of searches,
        and of models that are compiled. A network with half of the trials counts as half a network.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    shapes = {(tuple(layer.weight.shape), getattr(layer, "stride", None)) for layer in layers}
    trials += round(tunings * TASKS_PER_SHAPE * len(shapes) * args.trials)
    minutes = (TRIAL_SECONDS * trials + CANDIDATE_SECONDS * candidates) / 60
    print(f"# about {minutes:.0f} minutes on 2 cores at 32x32, longer for larger images", flush=True)


def build_untuned(model: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """Compile a model for this machine with the schedules that TVM uses without tuning; return ``path``."""
    preset = find_preset(None)
    target, relay_model = preset.make_target(), from_torch(model, shape, BACKENDS["autotvm"].layout)
    with pass_context(target, "autotvm", alter_layouts=True), quietly():
        library = relay.build(relay_model.mod, target)
    with replaced(path) as aside:
        preset.link(library, aside)
    return path


def in_rounds(
    path: Path, rounds: int, measure: Callable[[], dict[str, list[float]]]
) -> list[dict[str, list[float]]]:
    """Call ``measure`` once per round, and return the samples of all rounds.

    Each round is appended to the file at ``path``: a later call only measures those that are missing.
    """
    done = [json.loads(line) for line in recover_lines(path)][:rounds]
    while len(done) < rounds:
        done.append(measure())
        append_lines(path, [json.dumps(done[-1])])
    return done


def joined(rounds: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Return the samples of all rounds by name."""
    return {name: [sample for samples in rounds for sample in samples[name]] for name in rounds[0]}
