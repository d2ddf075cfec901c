# SPDX-License-Identifier: Apache-2.0
"""The tutorial: error reports, data sets, models, and the class of the original CPrune."""

import hashlib
import pickle
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from commands import TUTORIAL, error_of, run_python, run_tutorial
from image_folders import CLASSES, write_images
from programs import FAST
from pruning import SHAPE
from pruning import make_model as chain
from torch.utils.data import DataLoader, Subset

import main as tutorial
from c_pruner import CPruner
from data import load_data
from evaluation import accuracy
from models import make_model
from train import Recipe, train
from tvm.contrib.cprune.models.checkpoint import digest
from tvm.contrib.cprune.models.torchvision_models import import_torchvision
from tvm.contrib.cprune.types import CPruneError

UNTRAINED = ("--train-epochs", "0", "--accuracy-requirement", "0", "--experiment-data-dir")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet9000"], "unknown model 'resnet9000'; expected one of resnet8"),
        (["--dataset", "mnist"], "invalid choice: 'mnist'"),
        (["--base-algo", "l3"], "invalid choice: 'l3'"),
        (["--target", "quantum"], "target 'quantum' is not a TVM target"),
        (["--accuracy-requirement", "95"], "--accuracy-requirement is 95.0, expected 0 to 1"),
        (["--alpha", "2"], "--alpha is 2.0, expected more than 0 and at most 1"),
        (["--dataset", "cifar10", "--data-dir", "/nowhere"], "cifar10 in /nowhere is missing or damaged"),
        (
            ["--dataset", "imagenet", "--data-dir", "/nowhere"],
            "imagenet in /nowhere/train has no usable images",
        ),
        (
            ["--dataset", "imagefolder", "--data-dir", "/nowhere"],
            "imagefolder in /nowhere has no usable images",
        ),
        (["--image-size", "64"], "the images of digits have a size of their own; --image-size is 64"),
        (["--image-size", "4"], "--image-size is 4, expected at least 8"),
        (["--pretrained", "x.pt", "--weights", "DEFAULT"], "--weights and --pretrained exclude each other"),
        (["--pretrained", "/nowhere/x.pt"], "cannot read checkpoint /nowhere/x.pt"),
        (["--pretrained", __file__], "expected a TorchScript file or a state dict"),
        (
            ["--train-epochs", "0", "--accuracy-requirement", "0.99"],
            "below the requirement of 0.9900: train it further",
        ),
    ],
)
def test_invalid_input_is_reported_in_one_line_before_the_run_starts(arguments, message, tmp_path):
    done = run_tutorial(*arguments, "--experiment-data-dir", str(tmp_path / "run"), cwd=tmp_path)
    assert message in error_of(done, (1, 2))
    assert not (tmp_path / "run" / "config.json").exists()


def write_text_file(path):
    path.write_text("no checkpoint")


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name", "content")


def write_script(path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text_file, "expected a TorchScript file or a state dict of torch.save"),
        (write_zip, "expected a TorchScript file or a state dict of torch.save"),
        (
            write_script,
            "another architecture: the file lacks conv1.bias, conv1.weight, .*lacks bias, weight$",
        ),
        (
            lambda path: torch.save(torch.zeros(3), path),
            "contains an object of type Tensor, expected a state dict",
        ),
        (
            lambda path: torch.save(dict.fromkeys(make_model("lenet", 1, 10).state_dict(), 1), path),
            "'conv1.weight' in .* has type int, expected a tensor",
        ),
        (
            lambda path: torch.save(make_model("resnet8", 1, 10).state_dict(), path),
            "another architecture: the file lacks conv1.bias, conv2.bias, .*; the network lacks bn1.bias, ",
        ),
        (lambda path: torch.save(make_model("lenet", 3, 10).state_dict(), path), "3 .*channels"),
        (lambda path: torch.save(make_model("lenet", 1, 7).state_dict(), path), "7 outputs, expected 10"),
    ],
    ids=["text", "zip", "script", "tensor", "numbers", "architecture", "channels", "classes"],
)
def test_a_pretrained_file_that_does_not_fit_is_reported_in_one_line(write, message, tmp_path, recwarn):
    path = tmp_path / "file.pt"
    write(path)
    recwarn.clear()
    settings = tutorial.make_settings(
        tutorial.parse_arguments(["--model", "lenet", "--pretrained", str(path)])
    )
    with pytest.raises(CPruneError, match=message) as error:
        tutorial.initial_model(settings, load_data("digits", None, 32, 100, 0))
    assert "\n" not in str(error.value)
    assert not recwarn.list


@pytest.mark.parametrize("file", ["state dict", "TorchScript"])
def test_pretrained_weights_are_loaded(file, tmp_path):
    torch.manual_seed(1)
    model, path = make_model("resnet8", 1, 10).eval(), tmp_path / "file.pt"
    if file == "TorchScript":
        torch.jit.trace(model, torch.zeros(1, 1, 16, 16)).save(str(path))
    else:
        torch.save(model.state_dict(), path)
    settings = tutorial.make_settings(tutorial.parse_arguments(["--pretrained", str(path)]))
    loaded = tutorial.initial_model(settings, load_data("digits", None, 32, 100, 0))
    assert digest(loaded) == digest(model) != digest(make_model("resnet8", 1, 10))


def test_an_unusable_run_folder_is_reported_in_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("content")
    done = run_tutorial(*UNTRAINED, str(blocked / "run"), cwd=tmp_path)
    assert "main.py: cannot read or write" in error_of(done)
    assert blocked.read_text() == "content"


@pytest.mark.parametrize(("epochs", "file"), [("0", "resnet8-digits"), ("1", "training-first")])
def test_a_full_disk_is_reported_in_one_line_and_leaves_no_partial_file(epochs, file, tmp_path):
    """The checkpoint of the trained network, or of its training, exceeds a limit on the size of files."""
    options = (*UNTRAINED, tmp_path / "run", "--train-epochs", epochs, "--accelerator", "cpu")
    done = run_python(TUTORIAL / "main.py", *options, max_file_size=8192)
    assert re.fullmatch(rf"main\.py: cannot read or write \S*{file}\S*\.pt: File too large", error_of(done))
    assert not list(tmp_path.rglob(".cprune-part-*")) and not list(tmp_path.rglob("*.pt"))


def test_help_names_the_options_and_the_output():
    text = run_python(TUTORIAL / "main.py", "--help").stdout
    words = "--accuracy-requirement --base-algo --experiment-data-dir --resume result.json journal"
    assert [word for word in words.split() if word not in text] == []


def test_every_option_of_the_original_exists():
    names = (
        "accuracy_requirement dataset data_dir model batch_size test_batch_size fine_tune fine_tune_epochs "
        "experiment_data_dir base_algo sparsity log_interval speed_up"
    )
    assert set(names.split()) <= vars(tutorial.parse_arguments([])).keys()


def indices_of(loader: DataLoader) -> list[int]:
    """Return the images of a split by their numbers in the data set."""
    assert isinstance(loader.dataset, Subset)
    return list(loader.dataset.indices)


def test_digits_has_three_disjoint_splits():
    splits = load_data("digits", None, 32, 100, 0)
    parts = [indices_of(loader) for loader in (splits.train, splits.validation, splits.test)]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == 1797
    same_seed = load_data("digits", None, 32, 100, 0)
    assert indices_of(same_seed.test) == parts[2]
    images, labels = next(iter(splits.validation))
    assert images.shape == (100, 1, 16, 16)
    assert set(labels.tolist()) <= set(range(10))


def write_cifar10(folder, monkeypatch, count=20):
    """Write files in CIFAR-10's format with few images, and make torchvision expect their hashes."""
    torchvision = import_torchvision()
    cifar = torchvision.datasets.CIFAR10
    base = folder / cifar.base_folder
    base.mkdir()
    generator = np.random.default_rng(0)
    lists = {}
    for attribute in ("train_list", "test_list"):
        entries = []
        for name, _ in getattr(cifar, attribute):
            images = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
            content = {"data": images, "labels": [i % 10 for i in range(count)]}
            (base / name).write_bytes(pickle.dumps(content))
            entries.append([name, hashlib.md5((base / name).read_bytes()).hexdigest()])
        lists[attribute] = entries
    meta = {"label_names": [str(i) for i in range(10)]}
    (base / cifar.meta["filename"]).write_bytes(pickle.dumps(meta))
    md5 = hashlib.md5((base / cifar.meta["filename"]).read_bytes()).hexdigest()
    for attribute, entries in lists.items():
        monkeypatch.setattr(cifar, attribute, entries)
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5})
    return base


def test_cifar10_is_split_and_damaged_files_are_reported(tmp_path, monkeypatch):
    base = write_cifar10(tmp_path, monkeypatch)
    splits = load_data("cifar10", tmp_path, 8, 8, 0)
    assert (len(splits.train.dataset), len(splits.validation.dataset), len(splits.test.dataset)) == (
        90,
        10,
        20,
    )
    assert not set(indices_of(splits.train)) & set(indices_of(splits.validation))
    assert next(iter(splits.test))[0].shape == (8, 3, 32, 32)
    (base / "data_batch_2").write_bytes(b"damaged")
    with pytest.raises(CPruneError, match="missing or damaged"):
        load_data("cifar10", tmp_path, 8, 8, 0)


def test_an_image_folder_is_split_the_same_way_for_a_seed(tmp_path):
    write_images(tmp_path, 10)
    splits = load_data("imagefolder", tmp_path, 4, 4, 0, 32)
    parts = [set(indices_of(loader)) for loader in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [14, 2, 4]
    assert set.union(*parts) == set(range(20))
    assert splits.shape == (3, 32, 32)
    assert splits.classes == CLASSES
    assert next(iter(splits.train))[0].shape == (4, 3, 32, 32)
    again = load_data("imagefolder", tmp_path, 4, 4, 0, 32)
    assert indices_of(again.test) == indices_of(splits.test)
    assert indices_of(load_data("imagefolder", tmp_path, 4, 4, 1, 32).test) != indices_of(splits.test)


def test_an_image_folder_without_enough_images_is_an_error(tmp_path):
    write_images(tmp_path, 4)
    with pytest.raises(CPruneError, match="has 8 images, expected at least 10"):
        load_data("imagefolder", tmp_path, 4, 4, 0)


def test_imagenet_folders_are_split_and_damaged_images_are_reported(tmp_path):
    for split, count in (("train", 6), ("val", 2)):
        write_images(tmp_path / split, count)
    splits = load_data("imagenet", tmp_path, 4, 4, 0)
    assert splits.classes == CLASSES
    assert (len(splits.train.dataset), len(splits.validation.dataset), len(splits.test.dataset)) == (11, 1, 4)
    assert next(iter(splits.test))[0].shape == (4, 3, 224, 224)
    (tmp_path / "val" / "n01440764" / "0.JPEG").write_bytes(b"damaged")
    with pytest.raises(CPruneError, match="an image of the data set cannot be read"):
        accuracy(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 224 * 224, 2)), splits.test)


def test_training_stops_when_the_loss_is_not_finite():
    splits = load_data("digits", None, 32, 100, 0)
    with pytest.raises(CPruneError, match="the loss became"):
        train(make_model("lenet", 1, 10), splits.train, Recipe(3, 1e8))


def test_accuracy_of_an_empty_split_is_reported():
    images = torch.utils.data.TensorDataset(torch.zeros(0, 1, 16, 16), torch.zeros(0))
    with pytest.raises(CPruneError, match="contains no image"):
        accuracy(make_model("lenet", 1, 10), torch.utils.data.DataLoader(images, 8))


def test_the_class_of_the_original_prunes(tuned_run, tmp_path):
    shutil.copytree(tuned_run("chain", chain(), SHAPE) / "records", tmp_path / "records")
    pruner = CPruner(
        chain(),
        [{"sparsity": 0.5, "op_types": ["Conv2d"]}],
        short_term_trainer=lambda model: None,
        evaluator=lambda model: 0.9,
        val_loader=[],
        dummy_input=torch.zeros(SHAPE),
        criterion=torch.nn.CrossEntropyLoss(),
        base_algo="l1",
        experiment_data_dir=str(tmp_path),
        cpu_or_gpu="cpu",
        input_size=SHAPE,
        dataset="none",
        acc_requirement=0.5,
        tune=FAST,
        max_iterations=1,
    )
    small = pruner.compress()
    assert small(torch.zeros(SHAPE)).shape == (1, 4)
    assert (tmp_path / "result.json").exists()
