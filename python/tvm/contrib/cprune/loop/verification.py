# SPDX-License-Identifier: Apache-2.0
"""Comparing everything that a run exports with PyTorch."""

from collections.abc import Callable
from pathlib import Path

import torch

from tvm.contrib.cprune.importers.onnx_session import onnx_session
from tvm.contrib.cprune.loop.run import Run
from tvm.contrib.cprune.loop.training import seeded_batches
from tvm.contrib.cprune.models.reference import check_batches, compare_with_torch, torch_outputs
from tvm.contrib.cprune.numerics import Array, OutputError

# Largest error relative to the largest output; Winograd causes up to 1e-4 in deep networks.
TOLERANCE = 1e-3


def read_samples(run: Run, count: int) -> Array | None:
    """Return up to ``count`` inputs of the first training batch, None if the run has no batches."""
    if run.training.batches is None:
        return None
    batch = next(iter(seeded_batches(run.training, run.config.seed)), None)
    return None if batch is None else batch[0][:count].cpu().numpy()


def verify(run: Run, model: torch.nn.Module, library: Path, samples: Array | None, what: str) -> OutputError:
    """Compare a compiled model with PyTorch, on real samples and random inputs, for all outputs.

    Raises
    ------
    CPruneError
        If an output is not finite or differs by more than ``TOLERANCE``.
    """
    return _verify(run, model, lambda data: run.compiler.measurer.run_model(library, data), samples, what)


def verify_script(
    run: Run, model: torch.nn.Module, path: Path, samples: Array | None, what: str
) -> OutputError:
    """Load an exported TorchScript file and compare it with its model; see ``verify``."""
    script = torch.jit.load(str(path), map_location="cpu")
    return _verify(run, model, lambda data: torch_outputs(script, data), samples, what)


def verify_onnx(
    run: Run, model: torch.nn.Module, path: Path, samples: Array | None, what: str
) -> OutputError | None:
    """Compare an exported ONNX file with its model in ONNX Runtime; None where that is not installed.

    Raises
    ------
    OnnxRuntimeError
        If ONNX Runtime rejects the file.
    CPruneError
        As ``verify``.
    """
    execute = onnx_session(path)
    return None if execute is None else _verify(run, model, execute, samples, what)


def _verify(
    run: Run,
    model: torch.nn.Module,
    execute: Callable[[Array], list[Array]],
    samples: Array | None,
    what: str,
) -> OutputError:
    batches = check_batches(run.input_shape, samples, run.config.seed)
    return compare_with_torch(model, execute, batches, TOLERANCE, what)
