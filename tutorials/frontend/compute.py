# SPDX-License-Identifier: Apache-2.0
"""Run training and evaluation with Lightning Fabric, in this process or in one process per device."""

import logging
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal

from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, get_context

from tvm.contrib.cprune.config import check_fields
from tvm.contrib.cprune.messages import first_line
from tvm.contrib.cprune.types import CPruneError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# These loggers report the start of every process, and each process that ends because another one failed.
logging.getLogger("lightning_fabric.utilities").setLevel(logging.WARNING)
logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)

# Receives events such as {"event": "progress", "progress": TrainingProgress(...)}.
Report = Callable[[dict[str, Any]], None]
Work = Callable[["Fabric", Report], Any]


def ignore(_: dict[str, Any]) -> None:
    """Receive an event and do nothing."""


@dataclass(frozen=True)
class ComputeSettings:
    """The processors that train and evaluate.

    Attributes
    ----------
    accelerator
        Kind of processor that trains and evaluates. auto uses a GPU if available.
    devices
        Number of these processors. Each trains on its share of every batch, in a process of its own.
    precision
        Number format of the training: 32-bit, or 16-bit where PyTorch's automatic mixed precision uses it.
    num_workers
        Number of processes that load the images of each device; 0 loads them in the training process.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_fields(self, ["devices"], lambda value: value >= 1, "at least 1")
        check_fields(self, ["num_workers"], lambda value: value >= 0, "0 or more")


ONE_DEVICE = ComputeSettings()


def make_fabric(settings: ComputeSettings) -> "Fabric":
    """Return the Fabric for some processors.

    Raises
    ------
    CPruneError
        If this machine does not have them, or they do not support the precision.
    """
    # Imported here because it takes seconds, which --help does not need.
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment

    accelerator, devices, precision = settings.accelerator, settings.devices, settings.precision
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU")
            fabric = Fabric(
                accelerator=accelerator,
                devices=devices,
                # Forked processes could use neither CUDA nor the thread pools of this process.
                strategy="ddp_spawn" if devices > 1 else "auto",
                precision=precision,
                # This process starts all others, even as a job of a cluster.
                plugins=[LightningEnvironment()],
            )
    except Exception as error:  # Fabric's own types differ between accelerators.
        what = f"accelerator {accelerator} with {devices} device{'s' if devices > 1 else ''}"
        raise CPruneError(f"{what} is not available: {' '.join(str(error).split())}") from None
    if precision == "16-mixed" and fabric.device.type == "cpu":
        raise CPruneError("precision 16-mixed needs a GPU: use bf16-mixed or 32-true on a CPU")
    return fabric


def run_on(settings: ComputeSettings, work: Work, report: Report) -> Any:
    """Return the result of ``work(fabric, report)`` of rank 0.

    With one device, the work is done in this process. With several, every device has a process, which starts
    with a copy of the work and with the state of this process's random generators.

    Parameters
    ----------
    work
        A function of a module, or a ``functools.partial`` of one. What it contains and returns is on the CPU.
    report
        Receives the events that rank 0 reports, in this process.

    Raises
    ------
    CPruneError
        If the processors are not available, or a process ends before its work is done.
    """
    fabric = make_fabric(settings)
    if settings.devices == 1:
        fabric.launch()
        return work(fabric, report)
    return _run_in_processes(fabric, settings.devices, work, report)


def _run_in_processes(fabric: "Fabric", devices: int, work: Work, report: Report) -> Any:
    """Do the work in one process for each device, and return the result of rank 0."""
    context = get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(devices)]
    receivers, senders = [list(ends) for ends in zip(*pipes, strict=True)]
    outcome: dict[str, Any] = {}
    listener = threading.Thread(target=_listen, args=(receivers, report, outcome), daemon=True)
    listener.start()
    failure: Exception | None = None
    with _port_of_the_launch():
        try:
            fabric.launch(partial(_run_in_process, senders, _Copied(work)))
        except (ProcessRaisedException, ProcessExitedException) as error:
            failure = error
        except KeyboardInterrupt:
            for process in active_children():
                process.terminate()
            raise
        finally:
            for sender in senders:
                sender.close()
    listener.join()
    if "error" in outcome:
        raise outcome["error"]
    if isinstance(failure, ProcessExitedException):
        raise CPruneError(f"a training process ended: {first_line(failure)}")
    if failure:
        raise failure
    return outcome["result"]


class _Copied:
    """An object that reaches another process as a copy.

    Tensors would otherwise stay in shared memory, and each would take a file descriptor.
    """

    def __init__(self, content: Any) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[bytes]]:
        return pickle.loads, (pickle.dumps(self._content),)


def _run_in_process(senders: list[Connection], work: Any, fabric: "Fabric") -> None:
    """Do the work of one device in its process, and send the events and the result, or the error."""
    sender = senders[fabric.global_rank]

    def report(event: dict[str, Any]) -> None:
        sender.send(("event", event))

    try:
        result = work(fabric, report if fabric.is_global_zero else ignore)
    except (CPruneError, OSError) as error:
        sender.send(("error", error))
        raise
    if fabric.is_global_zero:
        sender.send(("result", _Copied(result)))


def _listen(receivers: list[Connection], report: Report, outcome: dict[str, Any]) -> None:
    """Pass on the events of the processes, and store the result or the first error, until all have ended.

    An exception that ``report`` raises is such an error, too.
    """
    try:
        while receivers:
            for receiver in wait(receivers):
                assert isinstance(receiver, Connection)
                try:
                    kind, content = receiver.recv()
                except (EOFError, OSError):  # The process has ended, possibly while it was sending.
                    receivers.remove(receiver)
                    continue
                if kind == "event":
                    report(content)
                else:
                    outcome.setdefault(kind, content)
    except Exception as error:
        outcome.setdefault("error", error)
    finally:
        # A process that sends to a closed pipe fails, and its failure ends the others.
        for receiver in receivers:
            receiver.close()


@contextmanager
def _port_of_the_launch() -> Iterator[None]:
    """Let every launch choose a free port: Fabric keeps its choice in the environment."""
    before = os.environ.get("MASTER_PORT")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("MASTER_PORT", None)
