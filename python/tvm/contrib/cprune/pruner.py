# SPDX-License-Identifier: Apache-2.0
"""A whole run: tune the model, prune it by the configured method, train and measure the result."""

import json
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.files import remove_partial_files
from tvm.contrib.cprune.loop.baseline import tune_baseline
from tvm.contrib.cprune.loop.evaluation import estimate, evaluate
from tvm.contrib.cprune.loop.journal import Journal, open_run
from tvm.contrib.cprune.loop.lock import locked
from tvm.contrib.cprune.loop.result import finish
from tvm.contrib.cprune.loop.run import Report, Run
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.loop.training import Training, timed
from tvm.contrib.cprune.measuring.context import RecordContext
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.methods.registry import method_of
from tvm.contrib.cprune.models.checkpoint import digest
from tvm.contrib.cprune.models.importance import check_importance
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.reference import check_batches, torch_outputs
from tvm.contrib.cprune.models.surgery import copy_model
from tvm.contrib.cprune.numerics import require_finite
from tvm.contrib.cprune.report.write import write_report
from tvm.contrib.cprune.stopwatch import Stopwatch
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.types import CPruneError


class CPruner:
    """Prunes a trained model for a target by the method in ``config``.

    Parameters
    ----------
    model
        The trained network. The run works with a copy, so that its weights, gradients, mode and device do
        not change.
    input_shape
        Shape of one inference, ``(N, C, H, W)``.
    training
        Functions that train and evaluate a model.
    config
        The method and its settings.
    run_dir
        Folder of the run. Only the library of programs is written elsewhere (see ``TuneConfig.library``).
    target
        Name of a preset or a TVM target; by default this machine.
    labels
        Names for the result: ``model``, ``dataset``, ``classes``, and any other setting that a resumed run
        must share.
    report
        Receives the events of the baseline, of every candidate and of the final training, the progress of
        searches, and messages about devices.
    profile
        Records written by the command ``profile``, which are not measured again.
    tracker
        RPC tracker whose devices measure; None means this machine.

    Raises
    ------
    CPruneError
        If the target is unknown.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        input_shape: tuple[int, ...],
        training: Training,
        config: PruneConfig,
        run_dir: Path,
        target: str | None = None,
        labels: dict[str, Any] | None = None,
        report: Report = lambda _: None,
        profile: Path | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.model, self.input_shape, self.training, self.config = model, tuple(input_shape), training, config
        self.preset, self.profile, self.tracker = find_preset(target), profile, tracker
        self.labels = {"model": type(model).__name__, "dataset": "", **(labels or {})}
        self.run_dir, self.report, self.method = Path(run_dir), report, method_of(config.method)
        self._journal: Journal | None = None

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Prune the model, and return the contents of ``result.json``.

        Parameters
        ----------
        resume
            Continue the run in ``run_dir`` if there is one.

        Raises
        ------
        CPruneError
            If the model's outputs are not finite, its accuracy is below the requirement, nothing can be
            pruned, the method cannot reach its goal, the run folder belongs to another configuration, device
            or version of TVM, or is in use by another process, or the model cannot be tuned.
        """
        if self.config.importance == "taylor" and not (self.training.batches and self.training.criterion):
            raise CPruneError("importance 'taylor' needs Training.batches and Training.criterion")
        check_importance(self.model, self.config.importance)
        model = copy_model(self.model)
        for batch in check_batches(self.input_shape, None):
            require_finite(torch_outputs(model, batch), "the unpruned model")
        stopwatch = Stopwatch()
        training = timed(self.training, stopwatch)
        accuracy, prunable = self._accuracy(training, model), self._prunable(model)
        self.method.check(prunable, self.config)
        with locked(self.run_dir):
            remove_partial_files(self.run_dir)
            conditions = RecordContext.of(self.preset.target, self.config.tune, self.tracker).conditions
            journal = open_run(self.run_dir, self._settings(), resume, stopwatch, conditions)
            self._journal = journal
            try:
                result: dict[str, Any] = (
                    self._run(journal, training, accuracy, prunable)
                    if journal.last("result") is None
                    else json.loads((self.run_dir / "result.json").read_text())
                )
            except (KeyboardInterrupt, CPruneError):
                journal.append({"event": "interrupted"})
                raise
            write_report([self.run_dir])
            return result

    def receive(self, event: Event) -> None:
        """Pass on an event of a search or of a training to ``report``.

        After an event ``{"event": "progress", ...}``, a killed process loses at most the time of the last
        minute. Long trainings should therefore report their progress here.
        """
        if event["event"] == "progress" and self._journal is not None:
            self._journal.append_time()
        self.report(event)

    def _run(
        self, journal: Journal, training: Training, accuracy: float, prunable: PrunableModel
    ) -> dict[str, Any]:
        where = (self.input_shape, self.run_dir, self.preset.name, self.receive)
        with Compiler(
            self.config, *where, profile=self.profile, tracker=self.tracker, stopwatch=journal.stopwatch
        ) as compiler:
            compiler.discard_all()  # of earlier processes, whose candidates are compiled again
            run = Run(
                model=prunable.model,
                input_shape=self.input_shape,
                training=training,
                config=self.config,
                compiler=compiler,
                journal=journal,
                folder=self.run_dir,
                labels=self.labels,
                report=self.report,
            )
            baseline = tune_baseline(run, accuracy, prunable)
            pruned, stop = self.method.prune(run, baseline)
            return finish(run, pruned, baseline.candidate, stop)

    def _accuracy(self, training: Training, model: torch.nn.Module) -> float:
        """Return the model's validation accuracy, which must meet the requirement."""
        accuracy, required = evaluate(training, model), self.config.accuracy_requirement
        if training.evaluate_part is not None:
            estimate(training, model)  # Wrong counts are reported before anything is tuned.
        if accuracy < required:
            raise CPruneError(
                f"the unpruned model's validation accuracy is {accuracy:.4f}, "
                f"below the requirement of {required:.4f}: train it further or lower the requirement"
            )
        return accuracy

    def _prunable(self, model: torch.nn.Module) -> PrunableModel:
        """Return the model with its channel groups, of which there must be one."""
        prunable = PrunableModel.trace(model, self.input_shape)
        groups = prunable.groups(self.config.include, self.config.exclude)
        if not groups.groups:
            reasons = "; ".join(f"{layer}: {reason}" for layer, reason in groups.unprunable.items())
            raise CPruneError(
                f"the model has nothing to prune ({reasons or 'no convolution or linear layer'})"
            )
        return prunable

    def _settings(self) -> dict[str, Any]:
        """Return what a resumed run must share with the run that it continues."""
        settings = self.config.to_json()
        del settings["tune"]["library"]  # decides where a search starts, not what counts as a result
        return {
            **settings,
            **self.labels,
            "target": self.preset.target,
            "preset": self.preset.name,
            "device_key": self.tracker.key if self.tracker else "local",
            "input_shape": self.input_shape,
            "weights": digest(self.model),
        }
