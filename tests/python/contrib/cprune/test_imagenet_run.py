# SPDX-License-Identifier: Apache-2.0
"""A run of the tutorial with ResNet-18 on images in ImageNet's format, killed in a training and resumed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from commands import TUTORIAL
from image_folders import CLASSES, write_images

from tvm.contrib.cprune.loop.journal import Journal

# Whether a candidate is accepted does not depend on the machine here, and all time is written down at once.
MAIN = """
import os, signal, sys
sys.path[:0] = {folders!r}
import main
from pruning import time_by_macs
from tvm.contrib.cprune import lagging
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.loop import attempt, journal

class Report(main.ConsoleReport):
    def __call__(self, event):
        super().__call__(event)
        progress = event.get("progress")
        if {kill} and getattr(progress, "name", "") == "short-term training" and progress.epoch == 2:
            os.killpg(0, signal.SIGKILL)

journal.TIME_INTERVAL, lagging.MIN_LATENCY = 0, 1.0
main.ConsoleReport = Report
Compiler.time, attempt.decide_prediction = time_by_macs, lambda *_: None
sys.exit(main.main({arguments!r}))
"""

OPTIONS = (
    "--model resnet18 --dataset imagenet --image-size 64 --batch-size 8 --accelerator cpu --num-workers 0 "
    "--train-epochs 1 --short-term-epochs 2 --fine-tune-epochs 1 --accuracy-requirement 0 "
    "--alpha 0.01 --beta 1 --trials 1 --repeats 3 --max-iterations 1 --final-trials 0 --library none"
)


def run_main(log: Path, *arguments: str, kill: bool = False) -> int:
    """Run the tutorial in a process group of its own, and return its exit status."""
    folders = [str(TUTORIAL), str(Path(__file__).parent)]
    code = MAIN.format(folders=folders, kill=kill, arguments=list(arguments))
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=True,
            timeout=600,
        )
    return done.returncode


def test_resnet18_is_pruned_on_imagenet_by_a_run_that_was_killed_in_a_training(tmp_path):
    for split, count in (("train", 40), ("val", 4)):
        write_images(tmp_path / "images" / split, count, (80, 80))
    folder, log = tmp_path / "run", tmp_path / "log"
    options = [*OPTIONS.split(), "--data-dir", str(tmp_path / "images"), "--experiment-data-dir", str(folder)]

    assert run_main(log, *options, kill=True) == -signal.SIGKILL, log.read_text()
    assert "short-term training: epoch 1/2" in log.read_text()
    lost = Journal(folder / "journal.jsonl").events[-1]
    assert lost["event"] == "time" and lost["work"]["train"] > 0

    assert run_main(log, *options, "--resume") == 0, log.read_text()
    messages = log.read_text()
    assert "training resnet18 on imagenet" not in messages, "the first training was repeated"
    assert "resuming the training after epoch 1 of 2" in messages
    result = json.loads((folder / "result.json").read_text())
    assert (result["model"], result["classes"]) == ("torchvision/resnet18", list(CLASSES))
    assert [iteration["accepted"] for iteration in result["iterations"]] == [True]
    assert result["pruned"]["macs"] < result["baseline"]["macs"]
    assert result["output_error"].keys() >= {"net.so", "model.pt"}
    assert not list(folder.rglob("training-*.pt"))
