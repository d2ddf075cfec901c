# SPDX-License-Identifier: Apache-2.0
"""Input of a run: what is refused, and that the caller's model is not changed."""

import json

import pytest
import torch
from networks import OneLayer
from pruning import SHAPE, config, make_model, state_of, training
from torch import nn

import tvm
from tvm.contrib.cprune import pruner
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.measuring import context
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import CPruneError


def nan_model() -> nn.Module:
    model = make_model()
    model.b.weight.data[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: CPruner(
                make_model(), SHAPE, training(), config(accuracy_requirement=0.95), folder
            ),
            "validation accuracy is 0.9000, below the requirement of 0.9500",
        ),
        (
            lambda folder: CPruner(nan_model(), SHAPE, training(), config(), folder),
            "output 0 of the unpruned model contains NaN",
        ),
        (
            lambda folder: CPruner(
                make_model(), SHAPE, Training(lambda _: None, lambda _: 92.5), config(), folder
            ),
            "Training.evaluate returned 92.5",
        ),
        (
            lambda folder: CPruner(make_model(), SHAPE, training(), config(importance="taylor"), folder),
            "importance 'taylor' needs Training.batches",
        ),
        (
            lambda folder: CPruner(
                nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), (1, 8), training(), config(), folder
            ),
            "the model has nothing to prune",
        ),
        (
            lambda folder: CPruner(OneLayer(8, 16), SHAPE, training(), config(exclude=("conv",)), folder),
            "the model has nothing to prune .*contains the excluded layer conv",
        ),
        (
            lambda folder: CPruner(make_model(), SHAPE, training(), config(), folder, target="quantum"),
            "target 'quantum' is not a TVM target",
        ),
    ],
)
def test_invalid_input_is_reported_before_anything_is_tuned_or_written(make, message, tmp_path):
    with pytest.raises(CPruneError, match=message):
        make(tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_the_callers_model_keeps_its_gradients_and_modes(tuned_dir, latency_by_macs):
    """The Taylor importance needs gradients, and functions of the user may set the mode."""
    model = make_model().train()
    model.b.eval()
    model.a.weight.grad = torch.ones_like(model.a.weight)
    before, batch = state_of(model), (torch.randn(2, *SHAPE[1:]), torch.tensor([0, 1]))

    def evaluate(evaluated):
        evaluated.eval()
        return 0.9

    functions = Training(lambda _: None, evaluate, batches=lambda: [batch], criterion=nn.CrossEntropyLoss())
    settings = config(importance="taylor", max_iterations=1)
    result = CPruner(model, SHAPE, functions, settings, tuned_dir).run()
    assert result["accepted"] == 1
    assert state_of(model) == before


def test_a_run_of_another_processor_is_refused_before_its_records_are_missed(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def run(resume):
        CPruner(make_model(), SHAPE, training(), config(), tmp_path).run(resume)

    monkeypatch.setattr(pruner, "Compiler", interrupted)
    monkeypatch.setattr(context, "local_device", lambda: "local (A)")
    with pytest.raises(KeyboardInterrupt):
        run(resume=False)
    recorded = json.loads((tmp_path / "config.json").read_text())["conditions"]
    assert recorded.items() >= {"device": "local (A)", "threads": host_threads()}.items()
    assert recorded["tvm"] == tvm.__version__
    with pytest.raises(KeyboardInterrupt):
        run(resume=True)
    monkeypatch.setattr(context, "local_device", lambda: "local (B)")
    message = r"other conditions \(device: 'local \(A\)' there, 'local \(B\)' now\)"
    with pytest.raises(CPruneError, match=message):
        run(resume=True)
