# SPDX-License-Identifier: Apache-2.0
"""Writing the pruned model in every form that a user may need, and reading each form back."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.importers.onnx_session import OnnxRuntimeError
from tvm.contrib.cprune.loop.run import Run
from tvm.contrib.cprune.loop.verification import read_samples, verify, verify_onnx, verify_script
from tvm.contrib.cprune.messages import first_line

# Inputs kept in ``samples.npy``, for the checks of ``deploy``.
SAMPLES = 8


def export(run: Run, candidate: Candidate) -> dict[str, Any]:
    """Write ``model.pt``, ``unpruned.pt``, ``model.onnx``, ``net.so``, ``table.json`` and ``samples.npy``.

    Each model is loaded again and compared with PyTorch before its file gets its name.

    Returns
    -------
    facts
        For the result: the largest errors of each file in ``output_error``, and in ``onnx`` why there is no
        ``model.onnx``, if there is none.

    Raises
    ------
    CPruneError
        If the outputs of an exported model differ from those of the original.
    """
    folder, example, facts = run.folder, torch.zeros(run.input_shape), {}
    pruned, unpruned = candidate.model.cpu().eval(), run.model.cpu().eval()
    samples = read_samples(run, SAMPLES)
    errors = {"net.so": verify(run, pruned, candidate.library, samples, "net.so")}
    for name, model in (("model.pt", pruned), ("unpruned.pt", unpruned)):
        with torch.no_grad(), replaced(folder / name) as part:
            torch.jit.trace(model, example).save(str(part))
            errors[name] = verify_script(run, model, part, samples, name)
    if samples is not None:
        with replaced(folder / "samples.npy") as part, part.open("wb") as file:
            np.save(file, samples)
    with replaced(folder / "net.so") as part:
        part.write_bytes(candidate.library.read_bytes())
    candidate.table.save(folder / "table.json")
    try:
        with replaced(folder / "model.onnx") as part:
            torch.onnx.export(pruned, (example,), str(part), dynamo=False, verbose=False)
            error = verify_onnx(run, pruned, part, samples, "model.onnx")
            errors.update({"model.onnx": error} if error else {})
    except (ImportError, RuntimeError, TypeError, OnnxRuntimeError) as failure:
        facts["onnx"] = f"not exported: {first_line(failure)}"
    return {**facts, "output_error": {name: asdict(error) for name, error in errors.items()}}
