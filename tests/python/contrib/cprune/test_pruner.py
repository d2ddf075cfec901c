# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 as a whole, on real networks and programs."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, run_cprune
from programs import FAST
from pruning import SHAPE, Chain, config, make_model, state_of, training
from torch import nn

import tvm
from tvm.contrib import graph_executor
from tvm.contrib.cprune.compiler import Compiler, Unbuilt
from tvm.contrib.cprune.loop import result as result_module
from tvm.contrib.cprune.loop.export import export
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import CandidateError, InfrastructureError, Latency


class TwoOutputs(nn.Module):
    """The chain, with its outputs before and after a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.chain(x)
        return y, torch.relu(y)


def check_compiled_model(folder: Path) -> None:
    """Compare the outputs of ``net.so`` with those of ``model.pt``."""
    small = torch.jit.load(folder / "model.pt")
    data = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    compiled = graph_executor.GraphModule(
        tvm.runtime.load_module(str(folder / "net.so"))["default"](tvm.cpu())
    )
    compiled.set_input("data", data)
    compiled.run()
    expected = small(torch.tensor(data)).detach().numpy()
    np.testing.assert_allclose(compiled.get_output(0).numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_run_prunes_measures_and_leaves_its_folder(tmp_path, latency_by_macs):
    model = make_model(winograd=True).train()
    before, events = state_of(model), []
    pruner = CPruner(
        model, SHAPE, training(), config(), tmp_path, labels={"dataset": "none"}, report=events.append
    )
    started = time.monotonic()
    result = pruner.run()
    elapsed = time.monotonic() - started
    assert state_of(model) == before
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    # The number of steps depends on the programs that the search finds.
    assert 1 <= result["accepted"] == len(result["iterations"])
    assert all("meets the goal" in it["reason"] for it in result["iterations"])
    assert result["output_error"].keys() == {"net.so", "model.pt", "unpruned.pt", "model.onnx"}
    assert all(error["max_rel"] < 1e-3 for error in result["output_error"].values())
    ratio = result["baseline"]["macs"] / result["pruned"]["macs"]
    assert result["speedup"] == pytest.approx(ratio)
    assert pruner_state(tmp_path).speedup == pytest.approx(ratio)
    assert result["pruned"]["macs"] < result["baseline"]["macs"]
    assert result["pruned"]["params"] < result["baseline"]["params"]
    assert result["trials"]["pruning_and_final_tuning"]["transplant"] > 0
    assert result["trials"]["pruning_and_final_tuning"]["search"] == 0
    assert result["unprunable"] == {"fc": "its outputs are the model's"}
    assert {e["event"] for e in events} >= {"progress", "baseline", "candidate", "final_training"}
    works = {"import", "search", "transplant", "build", "train", "evaluate", "other"}
    assert result["seconds_by_work"].keys() == works  # Measuring is replaced.
    assert sum(result["seconds_by_work"].values()) == pytest.approx(elapsed, rel=0.1)
    assert max(result["seconds_by_work"], key=result["seconds_by_work"].get) != "other"
    for name in (
        "config.json",
        "journal.jsonl",
        "model.pt",
        "model.onnx",
        "net.so",
        "report.html",
        "table.json",
    ):
        assert (tmp_path / name).stat().st_size > 0, name
    assert not list(tmp_path.rglob(".cprune-part-*"))
    assert libraries(tmp_path) == ["pruned", "unpruned"]

    check_compiled_model(tmp_path)
    table = TaskTable.load(tmp_path / "table.json")
    assert sorted(layer for row in table.rows for layer in row.task.layers) == ["a", "b", "c", "fc"]
    page = (tmp_path / "report.html").read_text()
    assert "as fast as the unpruned model" in page
    assert (
        CPruner(model, SHAPE, training(), config(), tmp_path, labels={"dataset": "none"}).run(resume=True)
        == result
    )


def libraries(folder: Path) -> list[str]:
    """Return the names of the libraries in ``build/``, without the times."""
    return sorted(path.stem.split("-")[0] for path in (folder / "build").glob("*.so"))


def pruner_state(folder: Path):
    return Journal(folder / "journal.jsonl").state()


def test_all_outputs_of_a_network_are_compared_in_a_run_and_in_deploy(
    tuned_dir, latency_by_macs, monkeypatch
):
    torch.manual_seed(0)
    model, settings = TwoOutputs().eval(), config(max_iterations=1)
    result = CPruner(model, SHAPE, training(), settings, tuned_dir).run()
    assert result["accepted"] == 1
    assert result["output_error"].keys() == {"net.so", "model.pt", "unpruned.pt", "model.onnx"}
    done = run_cprune("deploy", str(tuned_dir), "--repeats", "3")
    assert done.returncode == 0, done.stderr
    run_model = LocalMeasurer.run_model

    def second_output_off(*arguments):
        first, second = run_model(*arguments)
        return [first, second + 1]

    monkeypatch.setattr(LocalMeasurer, "run_model", second_output_off)
    assert "outputs of the device differ" in error_of(run_cprune("deploy", str(tuned_dir)))


def test_a_candidate_that_loses_accuracy_changes_nothing_and_drops_its_group(tuned_dir, latency_by_macs):
    # The unpruned model, three candidates that fail, then the unpruned model again at the end.
    accuracies, settings = training([0.9, 0.5, 0.5, 0.5, 0.9, 0.9]), config(retry_smaller=False)
    result = CPruner(make_model(), SHAPE, accuracies, settings, tuned_dir).run()
    assert result["accepted"] == 0
    assert result["pruned"]["widths"] == result["baseline"]["widths"]
    roots = [root for it in result["iterations"] for root in it["widths"]]
    assert len(roots) == len(set(roots))
    assert {it["verdict"] for it in result["iterations"]} == {"accuracy"}


def test_a_group_that_loses_accuracy_is_tried_halfway_before_it_is_excluded(tuned_dir, latency_by_macs):
    accuracy, settings = [0.9], config(max_iterations=40)
    losing = Training(short_term=lambda _: None, evaluate=lambda _: accuracy[0])

    def report(event):
        # The unpruned model is accurate, every candidate is not.
        if event["event"] == "baseline":
            accuracy[0] = 0.5
        if event["event"] == "candidate":
            tried.append(event["widths"])

    tried = []
    result = CPruner(make_model(), SHAPE, losing, settings, tuned_dir, report=report).run()
    assert result["accepted"] == 0
    assert 0 < len(tried) < 40
    by_root = {}
    for widths in tried:
        assert len(widths) == 1  # one layer per task
        ((root, (width, next_width)),) = widths.items()
        by_root.setdefault(root, []).append((width, next_width))
    assert len(by_root) > 1
    for steps in by_root.values():
        assert len(steps) <= 2
        if len(steps) == 2:
            (width, limit), (_, halfway) = steps
            assert (width + limit) / 2 <= halfway < width


def test_the_final_search_treats_both_models_alike_and_the_test_split_is_read_once(
    tuned_dir, latency_by_macs, monkeypatch
):
    searches, tests, exports = [], [], []
    search_again = Compiler.search_again

    def counted(compiler, current, trials, name):
        searches.append((name, trials))
        return search_again(compiler, current, trials, name)

    def interrupted_export(run, candidate):
        exports.append(candidate)
        if len(exports) == 1:
            raise KeyboardInterrupt
        return export(run, candidate)

    monkeypatch.setattr(Compiler, "search_again", counted)
    monkeypatch.setattr(result_module, "export", interrupted_export)

    def test(model):
        tests.append(model)
        return 0.8

    measured = replace(training(), test=test)
    settings = config(final_trials=FAST.trials, max_iterations=1)
    with pytest.raises(KeyboardInterrupt):
        CPruner(make_model(), SHAPE, measured, settings, tuned_dir).run()
    # The unpruned model comes last: it gets programs found for the layers that both share.
    expected = [("pruned", FAST.trials), ("baseline", FAST.trials)]
    assert searches == expected
    assert libraries(tuned_dir) == ["baseline", "pruned"]
    result = CPruner(make_model(), SHAPE, measured, settings, tuned_dir).run(resume=True)
    assert searches == expected * 2
    assert libraries(tuned_dir) == ["baseline", "pruned"]
    assert len(tests) == 2
    assert result["baseline"]["accuracy_test"] == result["pruned"]["accuracy_test"] == 0.8
    assert result["trials"]["pruning_and_final_tuning"]["search"] > 0
    assert result["seconds"]["final_tuning"] > 0


def test_a_failure_of_the_infrastructure_stops_the_run_and_drops_no_group(
    tuned_dir, latency_by_macs, monkeypatch
):
    def full_disk(*_, **__):
        raise InfrastructureError("cannot link net.so: No space left on device")

    monkeypatch.setattr(Compiler, "build", full_disk)
    with pytest.raises(InfrastructureError, match="No space left"):
        CPruner(make_model(), SHAPE, training(), config(), tuned_dir).run()
    assert Journal(tuned_dir / "journal.jsonl").last("candidate") is None

    def no_program(*_):
        raise CandidateError("no valid program for task a in 8 trials")

    monkeypatch.setattr(Compiler, "transplant", no_program)
    result = CPruner(make_model(), SHAPE, training(), config(), tuned_dir).run(resume=True)
    assert {it["verdict"] for it in result["iterations"]} == {"impossible"}


def test_a_candidate_with_far_too_slow_programs_is_not_built(tuned_dir, monkeypatch):
    def slow(compiler, current, model):
        def twice(row):
            latency = Latency(tuple(2 * sample for sample in row.program.latency.samples))
            return replace(row, program=replace(row.program, latency=latency))

        return Unbuilt(
            model, current.relay, replace(current.table, rows=tuple(map(twice, current.table.rows)))
        )

    monkeypatch.setattr(Compiler, "transplant", slow)
    monkeypatch.setattr(Compiler, "build", lambda *_, **__: pytest.fail("a candidate was built"))
    result = CPruner(make_model(), SHAPE, training(), config(max_iterations=2), tuned_dir).run()
    assert [it["verdict"] for it in result["iterations"]] == ["latency", "latency"]
    for it in result["iterations"]:
        assert it["latency_ms"] is None
        assert it["reason"].startswith(
            "not built: its programs take 2.000 times as long as the last accepted model's"
        )
    assert pruner_state(tuned_dir).reached


def test_a_slower_candidate_is_rejected_untrained_and_pruned_further(tuned_dir, monkeypatch):
    def slower(compiler, candidates, rounds=1):
        return {name: Latency((2.0 if name == "new" else 1.0,) * 20) for name in candidates}

    monkeypatch.setattr(Compiler, "time", slower)
    # Evaluated: the unpruned model at the start, and before and after the final training.
    pruner = CPruner(make_model(), SHAPE, training([0.9, 0.9, 0.9]), config(), tuned_dir)
    result = pruner.run()
    assert result["accepted"] == 0
    assert {it["verdict"] for it in result["iterations"]} == {"latency"}
    tried = [(root, widths[1]) for it in result["iterations"] for root, widths in it["widths"].items()]
    assert len(tried) == len(set(tried)) >= 2
    assert pruner_state(tuned_dir).reached
    assert pruner_state(tuned_dir).speedup == 1.0
