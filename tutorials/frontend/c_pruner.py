# SPDX-License-Identifier: Apache-2.0
"""A ``CPruner`` class with the interface of the authors' implementation, on top of ``tvm.contrib.cprune``."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune import pruner
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.models.checkpoint import load_checkpoint
from tvm.contrib.cprune.nni.config_list import read_config_list
from tvm.contrib.cprune.types import CPruneError


class CPruner:
    """Prunes ``model`` as far as the accuracy requirement allows.

    Parameters
    ----------
    model
        The trained model. It is not modified.
    config_list
        NNI config list: which layers to prune, and how far (see ``tvm.contrib.cprune.nni.config_list``).
    short_term_trainer
        Trains a model in place after each pruning step.
    evaluator
        Returns a model's accuracy in [0, 1] on the validation split.
    val_loader
        Batches for the Taylor importance.
    dummy_input
        An example input of the model.
    criterion
        Loss for the Taylor importance.
    base_algo
        Importance of channels: "l1", "l2", "fpgm", "taylor", "bn-scale" or "random".
    experiment_data_dir
        Run folder.
    cpu_or_gpu
        "cpu", or "gpu" together with ``target`` and ``tracker``.
    input_size
        Input shape, ``(N, C, H, W)``; by default that of ``dummy_input``.
    dataset
        Name of the data set in the result.
    acc_requirement
        Minimum validation accuracy in [0, 1].
    target, tracker
        Target and RPC tracker, as for ``tvm.contrib.cprune.CPruner``; by default the CPU of this machine.
    settings
        Other fields of ``PruneConfig``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config_list: Sequence[dict[str, Any]],
        short_term_trainer: Callable[[torch.nn.Module], None],
        evaluator: Callable[[torch.nn.Module], float],
        val_loader: Iterable[Any],
        dummy_input: torch.Tensor,
        criterion: torch.nn.Module,
        base_algo: str = "l1",
        experiment_data_dir: str = "runs/c_pruner",
        cpu_or_gpu: str = "cpu",
        input_size: tuple[int, ...] | None = None,
        dataset: str = "",
        acc_requirement: float = 0.85,
        target: str | None = None,
        tracker: Tracker | None = None,
        **settings: Any,
    ) -> None:
        if cpu_or_gpu != "cpu" and target is None:
            raise CPruneError(
                f"cpu_or_gpu is {cpu_or_gpu!r}; without a target, only 'cpu' is supported. For a GPU, give a "
                "target such as 'android-opencl-mali' and a tracker"
            )
        overrides = {**read_config_list(model, config_list), **settings}
        config = PruneConfig(accuracy_requirement=acc_requirement, importance=base_algo, **overrides)  # type: ignore[arg-type]
        training = Training(
            short_term=short_term_trainer, evaluate=evaluator, batches=lambda: val_loader, criterion=criterion
        )
        shape = tuple(input_size or dummy_input.shape)
        self.model, self.folder, self.config = model, Path(experiment_data_dir), config
        self._arguments = (model, shape, training, config, self.folder, target)
        self._tracker = tracker
        self._dataset = dataset

    def compress(self) -> torch.nn.Module:
        """Prune and return the pruned model. An interrupted run in the same run folder is resumed."""
        with ConsoleReport() as report:
            labels = {"dataset": self._dataset}
            run = pruner.CPruner(*self._arguments, labels=labels, report=report, tracker=self._tracker)
            run.run(resume=True)
        return load_checkpoint(self.folder, "final", self.model).eval()
