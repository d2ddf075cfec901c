# SPDX-License-Identifier: Apache-2.0
"""Comparing everything that a run exports with PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tvm.contrib.cprune.loop.run import Run
from tvm.contrib.cprune.models.reference import check_batches, torch_outputs
from tvm.contrib.cprune.numerics import OutputError, compare_outputs

# Largest error relative to the largest output; Winograd causes up to 1e-4 in deep networks.
TOLERANCE = 1e-3
Array = npt.NDArray[Any]


def read_samples(run: Run, count: int) -> Array | None:
    """Return up to ``count`` inputs of the first training batch, None if the run has no batches."""
    batch = next(iter(run.training.batches()), None) if run.training.batches else None
    return None if batch is None else batch[0][:count].cpu().numpy()


def verify(run: Run, model: torch.nn.Module, library: Path, samples: Array | None, what: str) -> OutputError:
    """Compare a compiled model with PyTorch, on real samples and random inputs, for all outputs.

    Raises
    ------
    CPruneError
        If an output is not finite or differs by more than ``TOLERANCE``.
    """
    return _verify(run, model, lambda data: run.compiler.measurer.run_model(library, data), samples, what)


def verify_script(run: Run, model: torch.nn.Module, path: Path, samples: Array | None) -> OutputError:
    """Load an exported TorchScript file and compare it with its model; see ``verify``."""
    script = torch.jit.load(str(path), map_location="cpu")
    return _verify(run, model, lambda data: torch_outputs(script, data), samples, path.name)


def verify_onnx(run: Run, model: torch.nn.Module, path: Path, samples: Array | None) -> OutputError | None:
    """Compare an exported ONNX file with its model in ONNX Runtime; None where that is not installed.

    Raises
    ------
    RuntimeError
        If ONNX Runtime rejects the file.
    CPruneError
        As ``verify``.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of ONNX Runtime's errors have no common base
        raise RuntimeError(f"ONNX Runtime rejects it: {error}") from error
    name = session.get_inputs()[0].name
    return _verify(run, model, lambda data: list(session.run(None, {name: data})), samples, path.name)


def _verify(
    run: Run,
    model: torch.nn.Module,
    execute: Callable[[Array], list[Array]],
    samples: Array | None,
    what: str,
) -> OutputError:
    error = OutputError()
    for batch in check_batches(run.input_shape, samples, run.config.seed):
        data = np.ascontiguousarray(batch)
        error = error.joined(compare_outputs(execute(data), torch_outputs(model, data), TOLERANCE, what))
    return error
