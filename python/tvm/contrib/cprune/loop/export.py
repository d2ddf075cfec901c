# SPDX-License-Identifier: Apache-2.0
"""Writing the pruned model in every form that a user may need."""

import numpy as np
import torch

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.loop.run import Run

# Inputs kept in ``samples.npy``, for the checks of ``deploy``.
SAMPLES = 8


def export(run: Run, candidate: Candidate) -> str:
    """Write ``model.pt``, ``unpruned.pt``, ``model.onnx``, ``net.so``, ``table.json`` and ``samples.npy``.

    Returns
    -------
    problem
        Why there is no ``model.onnx``, "" if there is one.
    """
    folder, example = run.folder, torch.zeros(run.input_shape)
    pruned, unpruned = candidate.model.cpu().eval(), run.model.cpu().eval()
    for name, model in (("model.pt", pruned), ("unpruned.pt", unpruned)):
        with torch.no_grad(), replaced(folder / name) as part:
            torch.jit.trace(model, example).save(str(part))
    batch = next(iter(run.training.batches()), None) if run.training.batches else None
    if batch is not None:
        with replaced(folder / "samples.npy") as part, part.open("wb") as file:
            np.save(file, batch[0][:SAMPLES].cpu().numpy())
    with replaced(folder / "net.so") as part:
        part.write_bytes(candidate.library.read_bytes())
    candidate.table.save(folder / "table.json")
    try:
        with replaced(folder / "model.onnx") as part:
            torch.onnx.export(pruned, (example,), str(part), dynamo=False, verbose=False)
    except (ImportError, RuntimeError, TypeError) as error:
        return str(error).splitlines()[0]
    return ""
