# SPDX-License-Identifier: Apache-2.0
"""Input of a run that is refused."""

import pytest
from networks import OneLayer
from pruning import SHAPE, config, make_model, training
from torch import nn

from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.pruner import CPruner
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
