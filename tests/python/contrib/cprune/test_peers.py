# SPDX-License-Identifier: Apache-2.0
"""The other runtimes that ``benchmarks/runtimes.py`` compares with."""

import sys

import numpy as np
import pytest
import torch
from commands import ROOT
from networks import Branches

sys.path.insert(0, str(ROOT / "benchmarks"))

import peers

SHAPE = (1, 3, 16, 16)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Return a network and the folder with its files for all runtimes."""
    torch.manual_seed(0)
    model, folder = torch.nn.Sequential(Branches(), torch.nn.ReLU()).eval(), tmp_path_factory.mktemp("peers")
    peers.convert(model, SHAPE, folder)
    return model, folder


@pytest.mark.parametrize("name", [name for name in peers.RUNTIMES if name != peers.OURS])
def test_a_runtime_computes_what_pytorch_does(name, converted):
    model, folder = converted
    data = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    with torch.no_grad():
        expected = model(torch.from_numpy(data)).numpy()
    with peers.Peer(name, folder, data, 2) as peer:
        np.testing.assert_allclose(peer.output, expected, atol=1e-4 * np.abs(expected).max())
        times = peer.time(3)
    assert len(times) == 3
    assert min(times) > 0


def test_a_model_that_a_runtime_cannot_load_is_an_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match="ONNX Runtime ended with status 1"):
        peers.Peer("ONNX Runtime", tmp_path, np.zeros(SHAPE, np.float32), 2)
