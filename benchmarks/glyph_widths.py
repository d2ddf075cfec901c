# SPDX-License-Identifier: Apache-2.0
"""Accuracy on the generated characters (``--dataset glyphs``) by the width of the network.

    python benchmarks/glyph_widths.py
    python benchmarks/glyph_widths.py --network resnet18/4

Each network is trained from random weights as the tutorial trains it. resnet18/4 is small/resnet18 with a
quarter of its channels in every layer.
"""

import argparse
import time

import torch

from common import SHAPE, print_machine
from data import Splits
from evaluation import accuracy
from models import TRAIN_RATE, make_model
from models.resnet import ResNet
from options import DEFAULTS
from train import Recipe, train
from tutorial_runs import load_splits
from tvm.contrib.cprune.models.surgery import macs_and_params

NETWORKS = ("resnet18", "resnet18/2", "resnet18/4", "mobilenetv2")


def network(name: str, classes: int) -> torch.nn.Module:
    """Return a network with random weights; "/N" divides the widths of ResNet-18 by N."""
    torch.manual_seed(0)
    base, _, divisor = name.partition("/")
    if not divisor:
        return make_model(f"small/{base}", SHAPE[1], classes)
    widths = tuple(width // int(divisor) for width in (64, 128, 256, 512))
    return ResNet((2, 2, 2, 2), widths, SHAPE[1], classes)


def row(name: str, splits: Splits) -> str:
    """Train a network and return its line of the table."""
    model = network(name, len(splits.classes))
    macs, parameters = macs_and_params(model, SHAPE)
    started = time.perf_counter()
    train(model, splits.train, Recipe(DEFAULTS["glyphs"].train_epochs, TRAIN_RATE, anneal=True))
    seconds = time.perf_counter() - started
    accuracies = [accuracy(model, loader) for loader in (splits.validation, splits.test)]
    numbers = "".join(f"{value:11.4f}" for value in accuracies)
    return f"{name:12} {macs / 1e6:9.1f} {parameters / 1e6:10.3f} {seconds:8.0f}{numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, help="train only this network (default: all)")
    options = parser.parse_args()
    print_machine()
    splits = load_splits("glyphs")
    head = f"{'network':12} {'M MACs':>9} {'M weights':>10} {'seconds':>8}"
    print(head + "".join(f"{split:>11}" for split in ("validation", "test")))
    for name in [options.network] if options.network else NETWORKS:
        print(row(name, splits), flush=True)


if __name__ == "__main__":
    main()
