# SPDX-License-Identifier: Apache-2.0
"""Does a run survive kill -9? Runs the demo, kills it at random moments, resumes it, and checks the result.

python benchmarks/faults.py                   # 20 kills, three times as long as `make demo`
python benchmarks/faults.py --quick --kills 3

A first run that is not killed shows how long everything takes; later calls reuse its times. Moments are drawn
from its whole length, training included. A moment is identified by the files written until then, because
resuming takes time, too.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import CACHE, ROOT, print_machine
from tvm.contrib.cprune.measuring.records import input_identity

MAIN = ROOT / "tutorials" / "frontend" / "main.py"
QUICK = {
    "--model": "lenet",
    "--train-epochs": 2,
    "--short-term-epochs": 1,
    "--fine-tune-epochs": 2,
    "--trials": 2,
    "--final-trials": 2,
    "--max-iterations": 4,
    "--accuracy-requirement": 0.1,
    "--alpha": 0.1,
}
POLL_SECONDS = 0.05
# Events that a journal holds once.
ONCE = ("baseline", "stopped", "final_training", "test", "result")


@dataclass(frozen=True)
class Moment:
    """A point of a run: ``delay`` seconds after it has written ``writes`` times."""

    writes: int
    delay: float


@dataclass
class Progress:
    """Counts what a run has written: epochs, checkpoints, records and events.

    Attributes
    ----------
    times
        Seconds from the start to each write, for the run that is not killed.
    """

    folder: Path
    saves: set[tuple[str, int]] = field(default_factory=set)
    times: list[float] = field(default_factory=list)

    def writes(self) -> int:
        """Look at the folder, and return the number of writes so far."""
        for path in self.folder.glob("checkpoints/[!.]*.pt"):
            try:
                self.saves.add((path.name, path.stat().st_mtime_ns))
            except FileNotFoundError:
                continue  # The file of a training that has just finished.
        logs = [*self.folder.glob("records/*/*.json"), *self.folder.glob("journal.jsonl")]
        lines = sum(path.read_bytes().count(b"\n") for path in logs if path.name != "context.json")
        return len(self.saves) + lines


def start(folder: Path, options: list[str]) -> subprocess.Popen[str]:
    """Start the demo, or resume it, in a process group of its own; its output goes to a file."""
    command = [sys.executable, str(MAIN), "--experiment-data-dir", str(folder), "--resume", *options]
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and all processes that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def time_writes(folder: Path, options: list[str]) -> list[float]:
    """Run the demo to its end; return the seconds to each write, and to the end."""
    progress, began = Progress(folder), time.monotonic()
    process = start(folder, options)
    try:
        while process.poll() is None:
            news = progress.writes() - len(progress.times)
            progress.times += [time.monotonic() - began] * news
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:
            kill(process)
    if process.returncode:
        sys.exit(f"the run that was not killed failed; see {folder.with_suffix('.log')}")
    return [*progress.times, time.monotonic() - began]


def undisturbed_times(base: Path, options: list[str]) -> list[float]:
    """Return ``time_writes`` of a run that is not killed, from an earlier call if it had the same options."""
    path = base / "undisturbed.json"
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["options"] == options:
            return list(kept["times"])
    shutil.rmtree(base / "undisturbed", ignore_errors=True)
    times = time_writes(base / "undisturbed", options)
    path.write_text(json.dumps({"options": options, "times": times}))
    return times


def draw_moments(times: list[float], count: int, seed: int) -> list[Moment]:
    """Draw moments from the whole length of a run."""
    *writes, end = times
    moments, generator = [], random.Random(seed)
    for second in sorted(generator.uniform(0, end) for _ in range(count)):
        earlier = [written for written in writes if written <= second]
        moments.append(Moment(len(earlier), second - (earlier[-1] if earlier else 0)))
    return moments


def run_until(progress: Progress, moment: Moment, options: list[str]) -> bool:
    """Start or resume a run, and kill it at a moment; return False if it ends before."""
    process, reached = start(progress.folder, options), None
    try:
        while process.poll() is None:
            if reached is None and progress.writes() >= moment.writes:
                reached = time.monotonic()
            if reached is not None and time.monotonic() - reached >= moment.delay:
                return True
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:
            kill(process)
    return False


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a journal."""
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def phase(folder: Path) -> str:
    """Return what a run was doing: training, tuning, pruning or final."""
    kinds = {event["event"] for event in read_events(folder)}
    if "stopped" in kinds:
        return "final"
    if "baseline" in kinds:
        return "pruning"
    trained = [*folder.glob("checkpoints/*-epochs-seed-*.pt"), *folder.glob("records/*/search.json")]
    return "tuning" if trained else "training"


def violations(folder: Path) -> Iterator[str]:
    """Check a complete run; yield what is wrong with it."""
    events = read_events(folder)
    counts = Counter(event["event"] for event in events)
    for kind in ONCE:
        if counts[kind] != 1:
            yield f"the journal holds {counts[kind]} events {kind!r}, expected 1"
    candidates = [event for event in events if event["event"] == "candidate"]
    numbers = [event["iteration"] for event in candidates]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"the iterations are {numbers}, expected each number once"
    if not (folder / "result.json").exists():
        yield "there is no result.json"
    elif len(json.loads((folder / "result.json").read_text())["iterations"]) != len(numbers):
        yield "result.json and the journal hold different numbers of iterations"
    names = [event["checkpoint"] for event in candidates if event["accepted"]]
    for name in [*names, "final"]:
        if not (folder / "checkpoints" / f"{name}.pt").exists():
            yield f"the checkpoint {name} is missing"
    for path in [*folder.rglob(".cprune-part-*"), *folder.glob("checkpoints/training-*.pt")]:
        yield f"{path.relative_to(folder)} was left behind"
    yield from _repeated(folder)


def _repeated(folder: Path) -> Iterator[str]:
    """Find programs that were measured and recorded twice. Killed measurements leave no record."""
    logs = [path for path in folder.glob("records/*/*.json") if path.name != "context.json"]
    for path in logs:
        programs = Counter(input_identity(line) for line in path.read_text().splitlines())
        repeated = sum(count - 1 for count in programs.values())
        print(f"{path.name}: {programs.total()} programs, {repeated} of them measured twice")
        if repeated:
            yield f"{path.relative_to(folder)} holds {repeated} programs twice"
    if len({path.parent for path in logs}) > 1:
        yield "the records are in several folders: the measuring context changed"


def main() -> int:
    """Run the benchmark; return 1 if a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument(
        "--quick", action="store_true", help="prune LeNet, and train and tune as little as possible"
    )
    arguments = parser.parse_args()
    quick = [text for name, value in QUICK.items() for text in (name, str(value))]
    options, base = (quick if arguments.quick else []), CACHE / "faults"
    # Lets the functions that started a run end it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    shutil.rmtree(base / "killed", ignore_errors=True)
    (base / "killed.log").unlink(missing_ok=True)
    base.mkdir(parents=True, exist_ok=True)
    print_machine()
    times = undisturbed_times(base, options)
    print(f"undisturbed: {times[-1]:.0f} s, {len(times) - 1} writes", flush=True)

    began, killed, progress = time.monotonic(), 0, Progress(base / "killed")
    for moment in draw_moments(times, arguments.kills, arguments.seed):
        if not run_until(progress, moment, options):
            print("the run ended before the remaining moments")
            break
        killed += 1
        at = f"{moment.delay:.1f} s after write {moment.writes}"
        print(f"kill {killed}: {phase(progress.folder)}, {at}", flush=True)
    last = start(progress.folder, options)
    try:
        status = last.wait()
    finally:
        if last.poll() is None:
            kill(last)
    seconds = time.monotonic() - began
    problems = [f"the last process ended with status {status}"] if status else []
    problems += violations(progress.folder)
    for problem in problems:
        print(f"VIOLATION: {problem}")
    verdict = "consistent" if not problems else f"{len(problems)} violations; see {base}"
    print(f"{killed} kills, {seconds:.0f} s: {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
