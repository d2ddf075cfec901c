# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation on several devices and in several number formats, compared with one CPU."""

import os
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from batches import Shares, load_batches
from compute import ComputeSettings, make_fabric, run_on
from evaluation import accuracy
from train import Recipe, train
from tvm.contrib.cprune.types import CPruneError

ONE, TWO = ComputeSettings("cpu"), ComputeSettings("cpu", devices=2)
# Batches of 16 leave one image for the last batch, in which one of two processes has no share.
IMAGES = torch.randn(33, 1, 8, 8, generator=torch.Generator().manual_seed(1))
DATA = DataLoader(TensorDataset(IMAGES, torch.arange(33) % 4), 16, shuffle=True)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.BatchNorm2d(8, affine=False, momentum=None),
        nn.Flatten(),
        nn.Linear(72, 4),
    )


def trained(compute: ComputeSettings, path: Path) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Return a trained network and the reports of its training."""
    model, events = network(0), []
    recipe, teacher = Recipe(2, 0.05, anneal=True, batches=5, distill=0.5), network(3)
    torch.manual_seed(0)
    train(model, DATA, recipe, teacher=teacher, checkpoint=path, compute=compute, report=events.append)
    return model, events


def test_two_processes_compute_what_one_process_computes(tmp_path):
    model, events = trained(ONE, tmp_path / "one.pt")
    shared, same_events = trained(TWO, tmp_path / "two.pt")
    progress, same = ([event["progress"] for event in reports] for reports in (events, same_events))
    assert [(item.epoch, item.batch) for item in same] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    assert [item.loss for item in same] == pytest.approx([item.loss for item in progress], rel=1e-4)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(shared[0].weight, network(0)[0].weight, atol=1e-3)
    # The first process wrote the state of the training, which any number of devices can continue.
    resumed, messages = trained(ONE, tmp_path / "two.pt")
    assert messages == [{"event": "training", "message": "the training was already complete"}]
    assert torch.equal(resumed[0].weight, shared[0].weight)
    assert accuracy(shared, DATA, TWO) == accuracy(shared, DATA, ONE)
    assert "MASTER_PORT" not in os.environ


def fail_on_the_second_device(fabric, report):
    report({"event": "training", "message": f"rank {fabric.global_rank}"})
    fabric.barrier()
    if fabric.global_rank == 1:
        raise CPruneError("an image cannot be read")
    fabric.barrier()


def test_an_error_in_any_process_is_reported_as_in_one_process():
    events = []
    with pytest.raises(CPruneError, match=r"^an image cannot be read$"):
        run_on(TWO, fail_on_the_second_device, events.append)
    assert events == [{"event": "training", "message": "rank 0"}]


def end_at_once(fabric, report):
    os._exit(3)


def test_a_process_that_ends_early_is_reported():
    with pytest.raises(CPruneError, match=r"a training process ended: process \d terminated with exit"):
        run_on(TWO, end_at_once, print)


def report_often(fabric, report):
    for number in range(20):
        report({"event": "training", "message": str(number)})
        fabric.barrier()


def test_an_error_in_the_report_ends_the_processes():
    events = []

    def fail(event):
        events.append(event)
        raise ZeroDivisionError("the report failed")

    with pytest.raises(ZeroDivisionError, match="the report failed"):
        run_on(TWO, report_often, fail)
    assert len(events) == 1


def batches_of(world: int) -> list[list[tuple[int, int]]]:
    """Return the images and seeds of every batch, over all processes."""
    shares = [Shares(33, 8, rank, world, torch.Generator().manual_seed(5)) for rank in range(world)]
    parts = [
        [items[: share.share(size)] for items, size in zip(share, share.batch_sizes, strict=True)]
        for share in shares
    ]
    return [sorted(chain(*batch)) for batch in zip(*parts, strict=True)]


@pytest.mark.parametrize("world", [2, 3, 8])
def test_the_batches_do_not_depend_on_the_number_of_processes(world):
    assert batches_of(world) == batches_of(1)
    assert sorted(number for batch in batches_of(world) for number, _ in batch) == list(range(33))
    assert [len(batch) for batch in batches_of(world)] == [8, 8, 8, 8, 1]


class Noise(Dataset):
    """Random images: each needs one random number for its transform."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.rand(1), index


def noise(workers: int, seed: int = 5) -> list[float]:
    """Return the random numbers of an epoch."""
    shares = Shares(10, 4, 0, 1, torch.Generator().manual_seed(seed))
    loaded = list(load_batches(make_fabric(ONE), Noise(), shares, workers))
    assert [(len(inputs), size) for inputs, _, size in loaded] == [(4, 4), (4, 4), (2, 2)]
    return torch.cat([inputs for inputs, _, _ in loaded]).flatten().tolist()


def test_random_transforms_depend_on_the_seed_only():
    torch.manual_seed(0)
    alone, after = noise(workers=0), torch.rand(1)
    assert len(set(alone)) == 10
    assert alone != noise(workers=0, seed=6)
    # Nor do they change the random numbers that the layers of the network draw.
    torch.manual_seed(0)
    assert noise(workers=2) == alone
    assert torch.rand(1) == after


def test_a_training_in_mixed_precision_returns_32_bit_weights():
    full, mixed = network(2), network(2)
    for model, precision in ((full, "32-true"), (mixed, "bf16-mixed")):
        torch.manual_seed(0)
        train(model, DATA, Recipe(2, 0.05), compute=ComputeSettings("cpu", precision=precision))
    assert {value.dtype for value in mixed.state_dict().values()} == {torch.float32, torch.int64}
    assert not torch.equal(mixed[0].weight, full[0].weight)
    torch.testing.assert_close(mixed[0].weight, full[0].weight, atol=0.02, rtol=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_processors_are_reported_in_one_line():
    with pytest.raises(CPruneError, match=r"^accelerator cuda with 1 device is not available: ") as error:
        make_fabric(ComputeSettings("cuda"))
    assert "\n" not in str(error.value)


def test_a_precision_that_the_cpu_lacks_is_an_error(recwarn):
    with pytest.raises(CPruneError, match="precision 16-mixed needs a GPU: use bf16-mixed or 32-true"):
        make_fabric(ComputeSettings("cpu", precision="16-mixed"))
    assert not recwarn.list
