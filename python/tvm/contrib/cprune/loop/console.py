# SPDX-License-Identifier: Apache-2.0
"""Progress of a run on a terminal."""

from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from tvm.contrib.cprune.loop.training_progress import TrainingProgress
from tvm.contrib.cprune.tuning.progress import Progress
from tvm.contrib.cprune.types import Latency


class ConsoleReport:
    """Prints events: searches and trainings live on a terminal, everything else as plain lines.

    Use it as a context manager, and as the ``report`` of a ``CPruner``.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._tasks: dict[str, Progress] = {}
        self._training = ""

    def __enter__(self) -> "ConsoleReport":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_live()

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            progress = event["progress"]
            show = self._train if isinstance(progress, TrainingProgress) else self._search
            show(progress)
            return
        if kind in ("device", "library", "training"):
            self.say(event["message"])
            return
        self._end_live()
        if kind == "baseline":
            latency = Latency(tuple(event["latency_s"]))
            self.say(
                f"unpruned: {latency.median * 1e3:.3f} ms "
                f"(tasks sum to {event['predicted_s'] * 1e3:.3f} ms), "
                f"validation accuracy {event['accuracy_val']:.4f}, {event['trials']['search']} trials"
            )
        elif kind == "staircase":
            self.say(f"measured the latency at {len(event['widths'])} widths of {event['root']}")
        elif kind == "candidate":
            self._candidate(event)
        elif kind == "accepted":
            self.say(f"[{event['iteration']:3}] accepted: {event['reason']}")
        elif kind == "final_training":
            self.say(f"trained: validation accuracy {event['accuracy_val']:.4f}")

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)

    def _candidate(self, event: dict[str, Any]) -> None:
        widths = ", ".join(f"{root} {old} -> {new}" for root, (old, new) in event["widths"].items())
        latency = f"{Latency(tuple(event['latency_s'])).median * 1e3:.3f} ms" if "latency_s" in event else "-"
        accuracy = f"{event['accuracy_val']:.4f}" if "accuracy_val" in event else "-"
        verdict = event["verdict"] if event["verdict"] in ("accepted", "measured") else "rejected"
        self.say(
            f"[{event['iteration']:3}] {widths}: {latency}, accuracy {accuracy}, {verdict}: {event['reason']}"
        )

    def _search(self, progress: Progress) -> None:
        if self._training:
            self._end_live()
        self._tasks[progress.task.workload_key] = progress
        if self.console.is_terminal:
            self._show(self._table(progress))
            return
        best = "no valid program yet" if progress.best == float("inf") else f"{progress.best * 1e6:8.1f} us"
        self.say(
            f"tuning {progress.total_trials}/{progress.budget}: {progress.task.title}, "
            f"{progress.trials} trials, "
            f"{best}, {progress.speed} GFLOP/s, {progress.seconds_left:.0f} s left"
        )

    def _train(self, progress: TrainingProgress) -> None:
        """Show a line on a terminal; print one after each epoch elsewhere."""
        if self._training != progress.name:
            self._end_live()
            self._training = progress.name
        if self.console.is_terminal:
            self._show(Text(str(progress)))
        elif progress.epoch_is_complete:
            self.say(str(progress))

    def _show(self, content: RenderableType) -> None:
        """Show a table, which stays at the end, or a line, which does not."""
        if self._live is None:
            transient = bool(self._training)
            self._live = Live(console=self.console, refresh_per_second=4, transient=transient)
            self._live.start()
        self._live.update(content)

    def _table(self, last: Progress) -> Table:
        title = f"tuning: {last.total_trials} of {last.budget} trials, about {last.seconds_left:.0f} s left"
        table = Table("task", "layers", "trials", "best latency", "GFLOP/s", title=title)
        for number, progress in enumerate(self._tasks.values()):
            best = "-" if progress.best == float("inf") else f"{progress.best * 1e6:.1f} us"
            title = progress.task.title
            name = title if len(title) < 48 else title[:45] + "..."
            table.add_row(str(number), name, str(progress.trials), best, progress.speed)
        return table

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._tasks.clear()
        self._training = ""


def summary(result: dict[str, Any]) -> Group:
    """Return a result for the terminal: a table of both models, and one of the time spent."""
    heading = Text("time by kind of work, without the training of the unpruned network:")
    return Group(_models(result), heading, _times(result["seconds_by_work"]))


def _times(seconds: dict[str, float]) -> Table:
    """Return a table of the time of each kind of work, the longest first."""
    total = sum(seconds.values())
    table = Table("work", *(Column(name, justify="right") for name in ("time", "share")), show_footer=True)
    table.columns[0].footer, table.columns[1].footer = "total", _duration(total)
    for work, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        table.add_row(work, _duration(spent), f"{spent / total:.0%}")
    return table


def _duration(seconds: float) -> str:
    """Return a duration such as 0:02:05."""
    return str(timedelta(seconds=round(seconds)))


def _models(result: dict[str, Any]) -> Table:
    table = Table("", "latency", "accuracy (test)", "accuracy (validation)", "MACs", "parameters")
    for name in ("baseline", "pruned"):
        side = result[name]
        latency = f"{side['latency_ms']['median']:.3f} ± {side['latency_ms']['spread']:.3f} ms"
        test = "-" if side["accuracy_test"] is None else f"{side['accuracy_test']:.4f}"
        sizes = (f"{side['macs'] / 1e6:.1f} M", f"{side['params'] / 1e6:.3f} M")
        table.add_row(name, latency, test, f"{side['accuracy_val']:.4f}", *sizes)
    losses = [
        f"{', '.join(change['layers'])}: {change['before']:.0f} to {change['after']:.0f} GFLOP/s"
        for change in result["speed_losses"]
    ]
    table.caption = f"layers that became slower per operation: {'; '.join(losses)}" if losses else None
    return table
