# SPDX-License-Identifier: Apache-2.0
"""Networks with features that are hard to prune, and the classification of ``benchmarks/coverage.py``."""

import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from commands import ROOT
from programs import FAST
from pruning import config, training

from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.torchvision_models import import_torchvision, load_torchvision
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.types import ChannelStep, CPruneError

sys.path.insert(0, str(ROOT / "benchmarks"))
from coverage import result_of

SHAPE = (1, 3, 64, 64)
l1 = partial(score, importance="l1", seed=0)


def shrink_some_groups(model, tmp_path):
    """Halve up to five groups, first and last ones, reload the copy, and return the model's groups."""
    prunable = PrunableModel.trace(model, SHAPE)
    groups = prunable.groups()
    steps = [
        ChannelStep(group, group.width // 2 // group.round_to * group.round_to, "")
        for group in groups.groups
        if group.width >= 2 * group.round_to
    ]
    assert steps
    small = prunable.shrink(steps if len(steps) < 6 else steps[:3] + steps[-2:], l1)
    save_checkpoint(tmp_path, "small", small.model)
    loaded = load_checkpoint(tmp_path, "small", model).eval()
    data = torch.randn(2, *SHAPE[1:])
    torch.testing.assert_close(loaded(data), small.model(data))
    return groups


NETWORKS = {"convnext_tiny": 1, "regnet_x_400mf": 1, "mobilenet_v3_small": 1, "shufflenet_v2_x0_5": 22}


@pytest.mark.parametrize("name", NETWORKS)
def test_hard_networks_are_pruned_and_reloaded(name, tmp_path):
    torch.manual_seed(0)
    groups = shrink_some_groups(load_torchvision(name, 10).eval(), tmp_path)
    assert len(groups.unprunable) == NETWORKS[name]


def small_network(name):
    """Return a network of torchvision's blocks, with few of them and few channels."""
    models = import_torchvision().models
    if name == "convnext":
        blocks = [models.convnext.CNBlockConfig(16, 32, 1), models.convnext.CNBlockConfig(32, None, 1)]
        return models.ConvNeXt(blocks, num_classes=10)
    if name == "regnet":
        blocks = models.regnet.BlockParams.from_init_params(4, 24, 36.0, 2.5, 8, se_ratio=0.25)
        return models.RegNet(blocks, num_classes=10)
    if name == "shufflenet":
        return models.ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 64], num_classes=10)
    block = models.mobilenetv3.InvertedResidualConfig
    blocks = [block(16, 3, 16, 16, True, "RE", 2, 1, 1.0), block(16, 5, 48, 24, True, "HS", 2, 1, 1.0)]
    return models.MobileNetV3(blocks, 64, num_classes=10)


@pytest.mark.parametrize("name", ["convnext", "regnet", "shufflenet", "mobilenet_v3"])
def test_hard_networks_complete_the_loop(name, tmp_path, latency_by_macs):
    torch.manual_seed(0)
    model = small_network(name).eval()
    settings = config(max_iterations=1, tune=replace(FAST, trials=1))
    result = CPruner(model, SHAPE, training(), settings, tmp_path).run()
    assert result["accepted"] == 1, result["iterations"]
    assert {"net.so", "model.pt", "unpruned.pt"} <= result["output_error"].keys()


def transformer(kind):
    models = import_torchvision().models
    if kind == "vit":
        return models.VisionTransformer(64, 16, 2, 2, 16, 32, num_classes=10)
    make = models.swin_transformer.SwinTransformer
    extra = {}
    if kind == "swin_v2":
        extra["block"] = models.swin_transformer.SwinTransformerBlockV2
        extra["downsample_layer"] = models.swin_transformer.PatchMergingV2
    return make([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=10, **extra)


@pytest.mark.parametrize(("kind", "pruned"), [("vit", 2), ("swin", 4), ("swin_v2", 4)])
def test_transformers_are_pruned_in_their_mlps_only(kind, pruned, tmp_path):
    torch.manual_seed(0)
    started = time.monotonic()
    groups = shrink_some_groups(transformer(kind).eval(), tmp_path)
    assert time.monotonic() - started < 30
    assert len(groups.groups) == pruned
    assert all("mlp" in group.root for group in groups.groups)
    assert all("\n" not in reason for reason in groups.unprunable.values())


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(None, "works"), (CPruneError("no\nlayer"), "refused"), (ZeroDivisionError("no\nlayer"), "failed")],
)
def test_only_cprune_errors_count_as_refusals(error, verdict):
    def stages(row):
        row["stage"] = "grouping"
        if error:
            raise error

    row = result_of("net", stages)
    assert row["verdict"] == verdict
    assert row["reason"].endswith("no layer" if error else "")
    assert "\n" not in row["reason"]
