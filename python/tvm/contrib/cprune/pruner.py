# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 of CPrune (Kim et al., ECCV 2022), and nothing else."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop import journal as journals
from tvm.contrib.cprune.loop.decision import decide_accuracy, decide_latency, stop_reason
from tvm.contrib.cprune.loop.journal import Event, LoopState
from tvm.contrib.cprune.loop.result import finish
from tvm.contrib.cprune.loop.training import Report, Run, Training
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.models.checkpoint import digest, load_checkpoint, save_checkpoint
from tvm.contrib.cprune.models.groups import Groups, find_groups
from tvm.contrib.cprune.models.importance import accumulate_gradients, score
from tvm.contrib.cprune.models.surgery import shrink, widths
from tvm.contrib.cprune.step import plan_step
from tvm.contrib.cprune.table import Row
from tvm.contrib.cprune.types import ChannelStep, CPruneError, Decision


class CPruner:
    """Prunes a trained model for a target until nothing more can go without harm.

    Parameters
    ----------
    model
        The trained network; it is not changed.
    input_shape
        Shape of one inference, ``(N, C, H, W)``.
    training
        The data's side of it.
    config
        What is asked for.
    target
        What to compile for: a preset, or a target as TVM names it; by default this machine.
    run_dir
        Folder of the run: everything that is written goes there.
    labels
        What to say in the result about ``model`` and ``dataset``, the names of the ``classes``, and whatever
        else belongs to the configuration that a resumed run must share.
    report
        Is told every event of the journal, and the progress of the searches.
    profile
        Records of the command ``profile``: widths that are in them are not measured again.
    tracker
        Where devices are asked for; None measures on this machine.
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
        self.compiler = Compiler(
            config, self.input_shape, run_dir, target, report, profile=profile, tracker=tracker
        )
        self.labels = {"model": type(model).__name__, "dataset": "", **(labels or {})}
        self.run_dir, self.report = Path(run_dir), report
        self.original_widths = widths(model)

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Prune, and return what ``result.json`` then holds.

        Raises
        ------
        CPruneError
            If the model's accuracy is below the requirement, there is nothing to prune, the run folder
            belongs to another configuration, or a part of the way fails.
        """
        unpruned_accuracy = self.training.evaluate(self.model)
        required = self.config.accuracy_requirement
        if unpruned_accuracy < required:
            raise CPruneError(
                f"the unpruned model's validation accuracy is {unpruned_accuracy:.4f}, "
                f"below the requirement of {required:.4f}: train it further or ask for less"
            )
        groups = self._groups(self.model)
        settings = {
            **self.config.to_json(),
            **self.labels,
            "target": str(self.compiler.target),
            "preset": self.compiler.preset.name,
            "input_shape": self.input_shape,
            "weights": digest(self.model),
        }
        self.journal = journals.open_run(self.run_dir, settings, resume)
        if self.journal.last("result") is not None:
            return json.loads((self.run_dir / "result.json").read_text())
        with self.compiler:
            baseline = self._baseline(unpruned_accuracy, groups)
            last, stop = self._prune()
            run = Run(
                self.model,
                self.input_shape,
                self.training,
                self.config,
                self.compiler,
                self.journal,
                self.run_dir,
                self.labels,
                self.report,
            )
            return finish(run, last, baseline, stop)

    def _groups(self, model: torch.nn.Module) -> Groups:
        groups = find_groups(model, self.input_shape, self.config.include, self.config.exclude)
        if not groups.groups:
            reasons = "; ".join(f"{layer}: {reason}" for layer, reason in groups.unprunable.items())
            raise CPruneError(
                f"the model has nothing to prune ({reasons or 'no convolution or linear layer'})"
            )
        return groups

    def _baseline(self, accuracy: float, groups: Groups) -> Candidate:
        """Tune the unpruned model and time it (Algorithm 1, lines 1 to 3)."""
        started, event = time.time(), self.journal.last("baseline")
        known = event["algorithms"] if event else None
        baseline = self.compiler.tune(self.model, known)
        if event is None:
            latency = self.compiler.time({"unpruned": baseline})["unpruned"]
            event = {
                "event": "baseline",
                "accuracy_val": accuracy,
                "latency_s": latency.samples,
                "predicted_s": baseline.table.predicted,
                "algorithms": self.compiler.algorithms,
                "unprunable": groups.unprunable,
                "trials": self.compiler.trials(),
                "seconds": round(time.time() - started, 2),
            }
            self.journal.append(event)
        self.report(event)
        baseline.table.save(self.run_dir / "table_unpruned.json")
        return baseline

    def _prune(self) -> tuple[Candidate, str]:
        """Prune step by step (Algorithm 1, lines 4 to 18); return the last accepted model and why the loop
        ended."""
        state = self.journal.state()
        current = self._current(state)
        while True:
            stopped = self.journal.last("stopped")
            if stopped is not None:
                return current, stopped["reason"]
            stop = stop_reason(state.speedup, state.iteration, state.seconds, self.config)
            choice = None if stop else self._choose(current, state)
            if choice is None:
                self.journal.append(
                    {"event": "stopped", "reason": stop or "no task is left that can be pruned"}
                )
                continue
            candidate, event = self._try(current, state, *choice)
            self.report(self.journal.append(event))
            state = state.after(event)
            if candidate is not None:
                self.compiler.discard(current)
                current = candidate

    def _choose(self, current: Candidate, state: LoopState) -> tuple[Row, list[ChannelStep]] | None:
        """Return the task of highest impact that can still be pruned, and the step of each of its groups."""
        groups = self._groups(current.model)
        for row in current.table.by_impact():
            steps = {}
            for layer in row.task.layers:
                group = groups.of_layer(layer)
                if group is None or group.root in state.dropped:
                    continue
                start = state.reached.get(group.root)
                original = self.original_widths[group.root]
                step = plan_step(group, current.table, row.task.layers, original, self.config, start)
                if step is not None:
                    steps[group.root] = step
            if steps:
                return row, list(steps.values())
        return None

    def _try(
        self, current: Candidate, state: LoopState, row: Row, steps: list[ChannelStep]
    ) -> tuple[Candidate | None, Event]:
        """Make one candidate, and decide on it; return it if it is accepted."""
        started, number = time.time(), state.iteration + 1
        event: Event = {
            "event": "candidate",
            "iteration": number,
            "task": row.task.title,
            "layers": list(row.task.layers),
            "widths": {step.group.root: [step.width, step.next_width] for step in steps},
            "reasons": [step.reason for step in steps],
        }

        def ended(verdict: str, decision: Decision) -> Event:
            seconds = round(time.time() - started, 2)
            said = {
                "accepted": decision.accepted,
                "verdict": verdict,
                "reason": decision.reason,
                "seconds": seconds,
            }
            return {**event, **said, "trials": self.compiler.trials()}

        try:
            candidate = self.compiler.move(current, self._shrink(current.model, steps, number))
        except CPruneError as error:
            return None, ended("impossible", Decision(False, str(error)))
        latencies = self.compiler.time({"old": current, "new": candidate})
        event["latency_s"], event["old_latency_s"] = latencies["new"].samples, latencies["old"].samples
        fast = decide_latency(latencies["old"], latencies["new"], self.config.beta * latencies["old"].median)
        if not fast.accepted:
            self.compiler.discard(candidate)
            return None, ended("latency", fast)

        torch.manual_seed(self.config.seed + number)
        self.training.short_term(candidate.model)
        event["accuracy_val"] = self.training.evaluate(candidate.model)
        good = decide_accuracy(state.accuracy, event["accuracy_val"], self.config)
        if not good.accepted:
            self.compiler.discard(candidate)
            return None, ended("accuracy", good)
        event["checkpoint"] = save_checkpoint(self.run_dir, f"iteration-{number:03}", candidate.model)
        return candidate, ended("accepted", Decision(True, f"{fast.reason}, {good.reason}"))

    def _shrink(self, model: torch.nn.Module, steps: list[ChannelStep], number: int) -> torch.nn.Module:
        if self.config.importance == "taylor":
            if self.training.batches is None or self.training.criterion is None:
                raise CPruneError("importance 'taylor' needs training batches and a criterion")
            accumulate_gradients(model, self.training.batches(), self.training.criterion)
        seed = self.config.seed + number
        return shrink(
            model, self.input_shape, steps, lambda group: score(group, self.config.importance, seed)
        )

    def _current(self, state: LoopState) -> Candidate:
        """Return the model that the journal's last acceptance left, compiled."""
        if not state.checkpoint:
            return self.compiler.baseline
        model = load_checkpoint(self.run_dir, state.checkpoint, self.model)
        return self.compiler.move(self.compiler.baseline, model)
