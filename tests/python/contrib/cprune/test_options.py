# SPDX-License-Identifier: Apache-2.0
"""The settings, and the command-line options derived from them."""

import argparse
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import pytest

import options as tutorial
from data import DATASETS, FOLDERS
from models import MODELS
from tvm.contrib.cprune.commands import tune as tune_command
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.options import ArgumentParser, Options, attribute_docs
from tvm.contrib.cprune.targets.presets import NAMES
from tvm.contrib.cprune.types import CPruneError


@dataclass(frozen=True)
class Example:
    """One field of each type.

    Attributes
    ----------
    count
        How many,
        over two lines.
    share
        At most 100 % of it.
    mode
        The mode.
    path
        The path.
    enabled
        Whether it is enabled.

    Notes
    -----
    This section is not an attribute.
    """

    count: int
    share: float = 0.5
    mode: Literal["fast", "slow"] = "fast"
    path: Path | None = None
    enabled: bool = True


GROUPS = [*tutorial.GROUPS.values(), tune_command.NETWORK, tune_command.TUNE, tune_command.MEASURE]
CONFIGS = list(dict.fromkeys([PruneConfig, TuneConfig, *(options.config for options in GROUPS)]))
OPTIONS = pytest.mark.parametrize("options", GROUPS, ids=lambda options: ",".join(options.names[:2]) or None)


def parser_of(options: Options[Any]) -> ArgumentParser:
    parser = ArgumentParser("test")
    options.add_to(parser)
    return parser


def parse_tune(*arguments: str) -> argparse.Namespace:
    parser = ArgumentParser("tune", add_help=False)
    tune_command.add_arguments(parser)
    return parser.parse_args(["--network", "mobilenet", *arguments])


def help_of(parser: argparse.ArgumentParser) -> str:
    """Return the help text on one line, with the words rejoined that argparse broke after a hyphen."""
    return " ".join(parser.format_help().split()).replace("- ", "-")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_is_documented_and_every_documented_field_exists(config):
    assert attribute_docs(config).keys() == {item.name for item in fields(config)}
    assert all(text.endswith(".") for text in attribute_docs(config).values())


@OPTIONS
def test_help_contains_the_documentation_of_every_option(options):
    text, docs = help_of(parser_of(options)), attribute_docs(options.config)
    for item in options.fields:
        assert options.flag(item.name) in text
        assert docs[item.name].replace("- ", "-") in text


@OPTIONS
def test_option_defaults_are_those_of_the_dataclass(options):
    parser = parser_of(options)
    for item in options.fields:
        if item.name not in {*options.computed, *options.defaults}:
            expected = None if item.default is MISSING else item.default
            assert parser.get_default(options.destination(item.name)) == expected


def test_help_shows_types_and_defaults():
    text = help_of(parser_of(Options(Example, flags={"share": "--part"})))
    assert "--count N How many, over two lines. " in text
    assert "--part X At most 100 % of it. (default: 0.5)" in text
    assert "--mode {fast,slow} The mode. (default: fast)" in text
    assert "--path PATH The path. --enabled, --no-enabled Whether it is enabled. (default: True)" in text


def test_options_are_converted_to_the_types_of_the_fields():
    options = Options(Example, flags={"share": "--part"})
    arguments = ["--count", "3", "--part", "1", "--mode", "slow", "--path", "x", "--no-enabled"]
    config = options.build(parser_of(options).parse_args(arguments))
    assert config == Example(3, 1.0, "slow", Path("x"), False)
    assert isinstance(config.share, float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --count"),
        (["--count", "many"], "argument --count: invalid int value: 'many'"),
        (["--count", "1", "--mode", "new"], "argument --mode: invalid choice: 'new'"),
    ],
)
def test_an_invalid_command_line_is_reported_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser_of(Options(Example)).parse_args(arguments)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"test: {message}") and errors.count("\n") == 1


def test_default_values_of_the_tutorial_are_valid_settings():
    for name, defaults in tutorial.DEFAULTS.items():
        settings = tutorial.make_settings(tutorial.parse_arguments(["--dataset", name]))
        assert settings.data == tutorial.DataSettings(dataset=name)
        assert settings.prune == PruneConfig(
            accuracy_requirement=defaults.accuracy_requirement,
            max_seconds=defaults.max_seconds,
            final_trials=8,
            tune=TuneConfig(max_seconds=defaults.tune_seconds),
        )
        assert settings.train.short_term_rate == defaults.short_term_rate
        assert settings.train.train_epochs == defaults.train_epochs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], 0.05),
        (["--model", "vgg16"], 0.01),
        (["--model", "torchvision/vgg11_bn"], 0.01),
        (["--model", "vgg16", "--train-rate", "0.02"], 0.02),
    ],
)
def test_networks_without_shortcuts_train_at_a_lower_rate(arguments, expected):
    assert tutorial.make_settings(tutorial.parse_arguments(arguments)).train.train_rate == expected


def test_options_of_the_tutorial_reach_the_settings():
    arguments = (
        "--base-algo fpgm --sparsity 0.5 --speed-up 2 --alpha 0.9 --max-seconds 7 --tune-seconds 8 "
        "--tuner autotvm --strategy ga --min-time 0.5 --threads 3 --no-fine-tune "
        "--train-epochs 0 --cool-down 1 --resume"
    )
    settings = tutorial.make_settings(tutorial.parse_arguments(arguments.split()))
    tune = TuneConfig("autotvm", "ga", max_seconds=8.0, min_seconds=0.5, threads=3)
    expected = PruneConfig(
        0.97, 0.9, importance="fpgm", max_sparsity=0.5, speedup_goal=2.0, max_seconds=7.0, final_trials=8
    )
    assert settings.prune == replace(expected, tune=tune)
    assert (settings.train.fine_tune, settings.train.train_epochs) == (False, 0)
    assert (settings.device.cool_down, settings.run.resume) == (1.0, True)


def test_defaults_of_the_data_set_are_for_the_methods_that_use_them():
    for method, accuracy, seconds in (("uniform", 0.0, 0), ("netadapt", 0.97, 180)):
        goal = ["--macs", "0.5"] if method == "uniform" else []
        settings = tutorial.make_settings(tutorial.parse_arguments(["--method", method, *goal]))
        assert (settings.prune.method, settings.prune.accuracy_requirement) == (method, accuracy)
        assert (settings.prune.max_seconds, settings.train.fine_tune_epochs) == (seconds, 12)
    for given, expected in (([], 0), (["--max-seconds", "30"], 30)):
        settings = tutorial.make_settings(tutorial.parse_arguments(["--method", "progressive", *given]))
        assert (settings.prune.max_seconds, settings.prune.accuracy_requirement) == (expected, 0.97)


def test_programs_run_longer_on_remote_devices():
    assert tutorial.parse_arguments([]).min_time == 0
    assert tutorial.parse_arguments(["--device-key", "phone"]).min_time == 0.02
    assert tutorial.parse_arguments(["--device-key", "phone", "--min-time", "0"]).min_time == 0


def test_documentation_lists_every_model_data_set_and_preset():
    docs = attribute_docs(tutorial.DataSettings)
    assert [name for name in MODELS if name not in docs["model"]] == []
    assert get_args(get_type_hints(tutorial.DataSettings)["dataset"]) == (*DATASETS, *FOLDERS)
    assert tuple(tutorial.DEFAULTS) == (*DATASETS, *FOLDERS)
    assert [name for name in NAMES if name not in attribute_docs(tutorial.DeviceSettings)["target"]] == []


def test_the_command_tune_selects_autotvm_and_its_strategy():
    parsed = parse_tune("--tuner", "autotvm", "--strategy", "ga", "--repeats", "5")
    assert tune_command.TUNE.build(parsed) == TuneConfig("autotvm", "ga")
    assert tune_command.MEASURE.build(parsed) == PruneConfig(measure_repeats=5)
    assert tune_command.TUNE.build(parse_tune()) == TuneConfig()


def test_strategies_as_tuners_are_deprecated(capsys):
    parsed = parse_tune("--tuner", "xgb-rank")
    assert tune_command.TUNE.build(parsed) == TuneConfig("autotvm", "xgb-rank")
    assert capsys.readouterr().err == (
        "tune: --tuner xgb-rank is deprecated; use --tuner autotvm --strategy xgb-rank\n"
    )


def test_help_of_the_command_tune_shows_only_the_new_spelling():
    parser = ArgumentParser("tune", add_help=False)
    tune_command.add_arguments(parser)
    assert "--tuner {ansor,autotvm} " in help_of(parser)
    assert "--tuner xgb" not in help_of(parser)


def test_an_unknown_tuner_is_reported_in_one_line(capsys):
    with pytest.raises(SystemExit):
        parse_tune("--tuner", "xbg")
    message = "tune: argument --tuner: invalid choice: 'xbg' (choose from ansor, autotvm) (see --help)\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (TuneConfig, {"tuner": "xgb"}, "tuner is 'xgb', expected one of ansor, autotvm"),
        (TuneConfig, {"repeats": 0}, "repeats is 0, expected at least 1"),
        (TuneConfig, {"threads": -1}, "threads is -1, expected 0 or more"),
        (TuneConfig, {"run_timeout": 0}, "run_timeout is 0, expected more than 0"),
        (PruneConfig, {"alpha": 1.5}, "alpha is 1.5, expected more than 0 and at most 1"),
        (PruneConfig, {"accuracy_requirement": float("nan")}, "accuracy_requirement is nan, expected 0 to 1"),
        (PruneConfig, {"latency_floor": 1.0}, "latency_floor is 1.0, expected at least 0 and less than 1"),
        (PruneConfig, {"speedup_goal": 0.5}, "speedup_goal is 0.5, expected 0 or more than 1"),
        (PruneConfig, {"final_trials": -1}, "final_trials is -1, expected 0 or more"),
        (PruneConfig, {"seed": -1}, "seed is -1, expected 0 or more"),
        (PruneConfig, {"hopeless": 1.5}, "hopeless is 1.5, expected 0 to 1"),
        (
            PruneConfig,
            {"layer_sparsity": (("conv1", 1.0),)},
            "layer_sparsity of conv1 is 1.0, expected more than 0 and less than 1",
        ),
        (tutorial.DataSettings, {"batch_size": 0}, "batch_size is 0, expected at least 1"),
        (tutorial.DeviceSettings, {"cool_down": -1}, "cool_down is -1, expected 0 or more"),
        (
            tune_command.NetworkSettings,
            {"network": "x", "image_size": 0},
            "image_size is 0, expected at least 1",
        ),
    ],
)
def test_invalid_settings_name_the_value_and_the_expectation(config, values, message):
    with pytest.raises(CPruneError) as error:
        config(**values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sparsity 1", "--sparsity is 1.0, expected more than 0 and less than 1"),
        ("--tune-seconds -3", "--tune-seconds is -3.0, expected 0 or more"),
        ("--train-epochs -1", "--train-epochs is -1, expected 0 or more"),
        ("--method uniform", "--macs is 0, expected more than 0: the method uniform needs a goal"),
        ("--macs 0.5", "--macs is 0.5, expected 0: the method cprune does not use it"),
        (
            "--method knapsack --speed-up 2 --max-seconds 5",
            "--max-seconds is 5.0, expected 0: the method knapsack does not use it",
        ),
    ],
)
def test_invalid_values_on_the_command_line_name_the_option(arguments, message):
    with pytest.raises(CPruneError) as error:
        tutorial.make_settings(tutorial.parse_arguments(arguments.split()))
    assert str(error.value) == message
