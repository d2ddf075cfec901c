# SPDX-License-Identifier: Apache-2.0
"""The networks of the tutorial: names, prefixes, and weights of torchvision."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from main import description
from models import MODELS, full_name, make_model
from tvm.contrib.cprune.models.torchvision_models import import_torchvision
from tvm.contrib.cprune.types import CPruneError


@pytest.mark.parametrize("name", MODELS)
def test_models_accept_the_images_of_their_data_set(name):
    channels = 1 if name == "lenet" else 3
    assert make_model(name, channels, 7).eval()(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


def test_torchvision_models_are_loaded_by_name():
    assert make_model("squeezenet1_1", 3, 5).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(CPruneError, match="requires images with 3 channels"):
        make_model("squeezenet1_1", 1, 5)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 32, "small/resnet18"),
        ("resnet18", 63, "small/resnet18"),
        ("resnet18", 64, "torchvision/resnet18"),
        ("mobilenetv2", 224, "torchvision/mobilenet_v2"),
        ("mobilenet_v2", 32, "torchvision/mobilenet_v2"),
        ("resnet8", 224, "small/resnet8"),
        ("small/resnet18", 224, "small/resnet18"),
        ("torchvision/resnet18", 32, "torchvision/resnet18"),
    ],
)
def test_the_size_of_the_images_or_a_prefix_selects_the_network(name, size, expected):
    assert full_name(name, size) == expected


UNKNOWN = [
    "",
    "resnet19",
    "small/squeezenet1_1",
    "torchvision/resnet8",
    "other/resnet18",
    "small/small/lenet",
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_networks_are_refused(name):
    with pytest.raises(CPruneError, match=r"unknown model .* expected one of resnet8"):
        full_name(name, 32)


def test_resnet18_on_imagenet_is_the_network_of_torchvision():
    model = make_model("resnet18", 3, 1000, 224)
    line = description("torchvision/resnet18", model, (1, 3, 224, 224))
    assert line == "torchvision/resnet18: 1.814 G multiply-accumulates, 11.69 M parameters"
    assert isinstance(make_model("resnet18", 3, 10, 32), type(make_model("resnet8", 3, 10)))


def test_weights_of_torchvision_are_loaded_by_name(tmp_path, monkeypatch):
    """The file is where torch.hub keeps it after a download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = import_torchvision().models.get_model_weights("squeezenet1_1").DEFAULT
    original = make_model("squeezenet1_1", 3, 1000, 224)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(original.state_dict(), folder / Path(weights.url).name)
    loaded = make_model("squeezenet1_1", 3, 1000, 224, "DEFAULT").state_dict()
    for name, value in original.state_dict().items():
        assert torch.equal(loaded[name], value)


WRONG_WEIGHTS = {
    "classes": ("squeezenet1_1", 10, "DEFAULT", "have 1000 classes, the data set has 10"),
    "name": ("squeezenet1_1", 1000, "LATEST", "no weights 'LATEST'; expected one of IMAGENET1K_V1, DEFAULT"),
    "small": ("lenet", 1000, "DEFAULT", "small/lenet has no weights 'DEFAULT'"),
    "offline": ("squeezenet1_1", 1000, "DEFAULT", r"no network.*: fetch https://download.*\.pth to .*\.pth"),
}


@pytest.mark.parametrize(("name", "classes", "weights", "message"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_weights_that_cannot_be_loaded_are_reported_in_one_line(
    name, classes, weights, message, tmp_path, monkeypatch
):
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(CPruneError, match=message) as error:
        make_model(name, 3, classes, 224, weights)
    assert "\n" not in str(error.value)
