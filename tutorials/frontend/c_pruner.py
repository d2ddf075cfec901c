# SPDX-License-Identifier: Apache-2.0
"""The original's class, with its arguments, on top of ``tvm.contrib.cprune``."""

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
    """Prunes ``model`` until the accuracy requirement would be missed.

    Parameters
    ----------
    model
        The trained network; it is not changed.
    config_list
        Which layers to prune and how far, as NNI spells it (see ``tvm.contrib.cprune.nni.config_list``).
    short_term_trainer
        Trains a model in place, after each step.
    evaluator
        Returns a model's accuracy in [0, 1] on the validation split.
    val_loader
        Batches for the Taylor score.
    dummy_input
        An input of the model.
    criterion
        The loss of the Taylor score.
    base_algo
        Importance of channels: l1, l2, fpgm, taylor, bn-scale or random.
    experiment_data_dir
        Folder of the run.
    cpu_or_gpu
        "cpu". For a GPU, give ``target`` and ``tracker``.
    input_size
        Shape of one inference, ``(N, C, H, W)``.
    dataset
        What to call the data in the result.
    acc_requirement
        Least accuracy in [0, 1].
    target, tracker
        What to compile for and where its devices are asked for, as ``tvm.contrib.cprune.CPruner`` takes them;
        by default this machine.
    settings
        Any other field of ``PruneConfig``.
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
                f"cpu_or_gpu is {cpu_or_gpu!r}, expected 'cpu'; for a GPU give a target such as "
                "'android-opencl-mali' and a tracker"
            )
        asked = {**read_config_list(model, config_list), **settings}
        config = PruneConfig(accuracy_requirement=acc_requirement, importance=base_algo, **asked)  # type: ignore[arg-type]
        training = Training(
            short_term=short_term_trainer, evaluate=evaluator, batches=lambda: val_loader, criterion=criterion
        )
        shape = tuple(input_size or dummy_input.shape)
        self.model, self.folder, self.config = model, Path(experiment_data_dir), config
        self._arguments = (model, shape, training, config, self.folder, target)
        self._tracker = tracker
        self._dataset = dataset

    def compress(self) -> torch.nn.Module:
        """Prune, and return the pruned model; the run folder holds everything else. A killed run goes on."""
        with ConsoleReport() as report:
            labels = {"dataset": self._dataset}
            run = pruner.CPruner(*self._arguments, labels=labels, report=report, tracker=self._tracker)
            run.run(resume=True)
        return load_checkpoint(self.folder, "final", self.model).eval()
