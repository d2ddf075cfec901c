# SPDX-License-Identifier: Apache-2.0
"""Sessions of ONNX Runtime for the benchmarks that compare with it."""

from pathlib import Path

import onnxruntime
import torch

from tvm.contrib.cprune.targets.target import host_threads


def onnx_session(
    model: torch.nn.Module, folder: Path, shape: tuple[int, ...]
) -> onnxruntime.InferenceSession:
    """Return a session of ONNX Runtime with all threads; the model is exported to ``folder``."""
    path = folder / "model.onnx"
    torch.onnx.export(model, (torch.zeros(shape),), str(path), dynamo=False, input_names=["data"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = host_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
