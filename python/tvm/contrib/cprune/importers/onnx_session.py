# SPDX-License-Identifier: Apache-2.0
"""Running ONNX models in ONNX Runtime, where it is installed."""

from collections.abc import Callable
from pathlib import Path

from tvm.contrib.cprune.messages import first_line
from tvm.contrib.cprune.numerics import Array
from tvm.contrib.cprune.types import CPruneError


class OnnxRuntimeError(CPruneError):
    """ONNX Runtime rejects a model."""


def onnx_session(model: Path | bytes) -> Callable[[Array], list[Array]] | None:
    """Load an ONNX model into ONNX Runtime.

    Parameters
    ----------
    model
        A file, or a serialized model.

    Returns
    -------
    execute
        Runs the model on one batch, and returns all outputs. None where ONNX Runtime is not installed.

    Raises
    ------
    OnnxRuntimeError
        If ONNX Runtime rejects the model, now or when it runs.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    try:
        source = str(model) if isinstance(model, Path) else model
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of ONNX Runtime's errors have no common base
        raise OnnxRuntimeError(f"ONNX Runtime rejects the model: {first_line(error)}") from error
    name = session.get_inputs()[0].name

    def execute(data: Array) -> list[Array]:
        try:
            return list(session.run(None, {name: data}))
        except Exception as error:
            raise OnnxRuntimeError(f"ONNX Runtime cannot run the model: {first_line(error)}") from error

    return execute
