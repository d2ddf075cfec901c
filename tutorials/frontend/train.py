# SPDX-License-Identifier: Apache-2.0
"""Train a classifier, on one device or several."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from batches import Shares, load_batches
from compute import ONE_DEVICE, ComputeSettings, Report, ignore, run_on
from distillation import loss_of
from epoch_file import EpochFile
from global_norm import with_global_norms
from memory_format import prepare_model
from tvm.contrib.cprune.loop.training_progress import TrainingProgress
from tvm.contrib.cprune.models.checkpoint import digest
from tvm.contrib.cprune.models.surgery import copy_model
from tvm.contrib.cprune.types import CPruneError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Short-term training after each pruning step (paper, section 4.1).
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 5e-4


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes
    ----------
    epochs
        Number of epochs.
    learning_rate
        Learning rate of SGD.
    anneal
        Use a one-cycle schedule with ``learning_rate`` as its maximum, for training from random weights. By
        default, the learning rate is constant.
    batches
        Number of batches to train for instead of ``epochs``; 0 means whole epochs.
    distill
        Weight of the teacher's outputs in the loss, in [0, 1] (see ``distillation.loss_of``).
    """

    epochs: int
    learning_rate: float = LEARNING_RATE
    anneal: bool = False
    batches: int = 0
    distill: float = 0.0


@dataclass(frozen=True)
class _Plan:
    """What a training does, apart from its networks and images."""

    recipe: Recipe
    epochs: int
    epoch_steps: int
    steps: int
    batch_size: int
    precision: str
    seed: int


@dataclass(frozen=True)
class _Run:
    """How a training runs and what it reports, which does not change its result."""

    name: str
    workers: int
    log_interval: int
    checkpoint: Path | None


def train(
    model: torch.nn.Module,
    loader: DataLoader,
    recipe: Recipe,
    *,
    teacher: torch.nn.Module | None = None,
    checkpoint: Path | None = None,
    compute: ComputeSettings = ONE_DEVICE,
    name: str = "training",
    log_interval: int = 0,
    report: Report = ignore,
) -> None:
    """Train a model in place with SGD, on cross-entropy loss and optionally the outputs of a teacher.

    The weights depend on the arguments and on the state of torch's random generator. The numbers of devices
    and of workers change them by rounding errors only; random layers such as dropout draw other numbers on
    other devices. On a GPU, rounding errors also differ from one training to the next, because cuDNN's
    gradients are not deterministic.

    Parameters
    ----------
    model
        The network, on the CPU and in 32-bit precision, before and after the training.
    loader
        Its data set and batch size are used. Every epoch has a random order, and the transforms of an image
        take their random numbers from torch.
    checkpoint
        File that receives the state of the training after each epoch. If it holds the state of this very
        training, which was interrupted, the training continues there; on a CPU, with identical results. The
        file remains after the last epoch; the caller deletes it once the model is saved.
    name
        What the reports call the training.
    log_interval
        Number of batches between two messages with the loss; 0 for none.
    report
        Receives a ``TrainingProgress`` after each batch as ``{"event": "progress", "progress": ...}``, and
        messages as ``{"event": "training", "message": ...}``.

    Raises
    ------
    CPruneError
        If the loss becomes infinite or NaN, an image or the checkpoint cannot be read, or the devices are not
        available.
    """
    assert loader.batch_size is not None
    steps, batches = len(loader), recipe.batches
    epochs = -(-batches // max(1, steps)) if batches else recipe.epochs
    total, seed = batches or max(1, epochs * steps), int(torch.randint(2**31, ()))
    plan = _Plan(recipe, epochs, steps, total, loader.batch_size, compute.precision, seed)
    run = _Run(name, compute.num_workers, log_interval, checkpoint)
    guide = teacher if recipe.distill else None
    state = run_on(compute, partial(_train, model, guide, loader.dataset, plan, run), report)
    model.load_state_dict(state)
    model.eval()


@dataclass(frozen=True)
class _Learner:
    """A network, and what changes its weights."""

    fabric: "Fabric"
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: OneCycleLR | None
    teacher: torch.nn.Module | None
    distill: float

    def step(self, inputs: torch.Tensor, labels: torch.Tensor, size: int) -> float:
        """Train on this process's share of a batch of ``size`` images, and return the loss of the batch."""
        self.optimizer.zero_grad()
        expected = None
        if self.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                expected = self.teacher(inputs).float()
        loss = loss_of(self.network(inputs), labels, expected, self.distill) / size
        # DistributedDataParallel averages the gradients over the processes.
        self.fabric.backward(loss * self.fabric.world_size)
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()
        total = self.fabric.all_reduce(loss.detach(), reduce_op="sum")
        assert isinstance(total, torch.Tensor)
        return total.item()


def _train(
    model: torch.nn.Module,
    teacher: torch.nn.Module | None,
    dataset: Dataset[Any],
    plan: _Plan,
    run: _Run,
    fabric: "Fabric",
    report: Report,
) -> dict[str, torch.Tensor]:
    """Train on this process's share of every batch, and return the weights on the CPU."""
    training = f"{digest(model)} {digest(teacher) if teacher else None} {len(dataset)} {plan}"  # type: ignore[arg-type]
    student = copy_model(model)
    if fabric.world_size > 1:
        student = with_global_norms(student, fabric.device)
    student = prepare_model(student, fabric.device)
    sgd = torch.optim.SGD(
        student.parameters(), plan.recipe.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    network, optimizer = fabric.setup(student, sgd)
    schedule = (
        OneCycleLR(sgd, plan.recipe.learning_rate, total_steps=plan.steps + 1) if plan.recipe.anneal else None
    )
    guide = fabric.to_device(prepare_model(copy_model(teacher).eval(), fabric.device)) if teacher else None
    parts = {"model": student, "optimizer": sgd, "precision": fabric.strategy.precision}
    if schedule:
        parts["schedule"] = schedule
    file = EpochFile(run.checkpoint, parts, training) if run.checkpoint else None
    complete = file.restore() if file else 0
    if complete:
        resuming = f"resuming the training after epoch {complete} of {plan.epochs}"
        message = resuming if complete < plan.epochs else f"the {run.name} was already complete"
        report({"event": "training", "message": message})
    network.train()
    learner = _Learner(fabric, network, optimizer, schedule, guide, plan.recipe.distill)
    started, first = time.monotonic(), complete * plan.epoch_steps
    for epoch in range(complete, plan.epochs):
        for progress in _epoch(learner, dataset, plan, run, epoch):
            step = epoch * plan.epoch_steps + progress.batch
            seconds = (time.monotonic() - started) / (step - first) * (plan.steps - step)
            report({"event": "progress", "progress": replace(progress, seconds_left=seconds)})
            if run.log_interval and (progress.batch - 1) % run.log_interval == 0:
                report({"event": "training", "message": str(progress)})
        if file and fabric.is_global_zero:
            file.save(epoch + 1)
    return {name: value.cpu() for name, value in student.state_dict().items()}


def _epoch(
    learner: _Learner, dataset: Dataset[Any], plan: _Plan, run: _Run, epoch: int
) -> Iterator[TrainingProgress]:
    """Train for one epoch, and yield the progress after each batch.

    Each epoch has its own seed, so that a resumed training repeats it.
    """
    rank, world = learner.fabric.global_rank, learner.fabric.world_size
    generator = torch.Generator().manual_seed(plan.seed + epoch)
    shares = Shares(len(dataset), plan.batch_size, rank, world, generator)  # type: ignore[arg-type]
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)) + rank)
    count = min(len(shares), plan.steps - epoch * len(shares))
    total = 0.0
    for number, batch in enumerate(
        islice(load_batches(learner.fabric, dataset, shares, run.workers), count), 1
    ):
        loss = learner.step(*batch)
        if not math.isfinite(loss):
            where = f"epoch {epoch + 1}/{plan.epochs}"
            raise CPruneError(f"the loss became {loss} in {where}: lower the learning rate")
        total += loss
        yield TrainingProgress(run.name, epoch + 1, plan.epochs, number, count, total / number)
