# SPDX-License-Identifier: Apache-2.0
"""Records belong to the conditions in which they were measured."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tvm.contrib.cprune.measuring.context import RecordContext
from tvm.contrib.cprune.measuring.records import parse
from tvm.contrib.cprune.program_store import ProgramStore
from tvm.contrib.cprune.types import CPruneError, Task

CONTEXT = RecordContext("llvm -mcpu=core-avx2", 2, True, "local")
OTHERS = [
    replace(CONTEXT, target="llvm -mcpu=skylake-avx512"),
    replace(CONTEXT, threads=1),
    replace(CONTEXT, cold_weights=False),
    replace(CONTEXT, device="phone"),
    replace(CONTEXT, tvm="0.0"),
]
KEY = json.dumps(["conv"])


def record(cost: float):
    parts = {"i": [[KEY, "llvm", [], "", 2, []], [[], []]], "r": [[cost], 0, 1, 1], "v": "v0.6"}
    return parse(json.dumps(parts))


class Measurer:
    """Collects what it is asked to measure."""

    def __init__(self):
        self.lines = []

    def measure_new(self, inputs, log):
        self.lines += inputs
        return []


def store(folder, context, profile=None, measurer=None) -> ProgramStore:
    backend = SimpleNamespace(transplant=lambda line, old, new, limit: [line])
    return ProgramStore(backend, measurer or Measurer(), folder, context, profile)


@pytest.mark.parametrize("other", OTHERS, ids=["target", "threads", "cold weights", "device", "TVM"])
def test_records_of_another_context_are_donors_and_never_results(other, tmp_path):
    store(tmp_path, CONTEXT).searched.append([record(2.0), record(1.0)])
    assert store(tmp_path, CONTEXT).best(KEY).latency.median == 1.0
    measurer = Measurer()
    programs = store(tmp_path, other, measurer=measurer)
    assert programs.best(KEY) is None
    assert programs.trials() == {"search": 0, "transplant": 0}
    programs.seed([Task(KEY, (), 1.0), Task("unknown", (), 1.0)], batch=8)
    assert measurer.lines == [record(1.0).line]
    assert store(tmp_path, CONTEXT).trials()["search"] == 2


@pytest.mark.parametrize("other", OTHERS, ids=["target", "threads", "cold weights", "device", "TVM"])
def test_a_profile_of_another_context_is_refused(other, tmp_path):
    folder = tmp_path / "profile"
    folder.mkdir()
    (folder / "profile.json").write_text(record(0.5).line + "\n")
    with pytest.raises(CPruneError, match=r"has no context\.json: measure the records of a profile again"):
        store(tmp_path / "run", CONTEXT, folder / "profile.json")
    CONTEXT.save(folder)
    assert store(tmp_path / "run", CONTEXT, folder / "profile.json").best(KEY).latency.median == 0.5
    with pytest.raises(CPruneError, match=r"the records of a profile in .* have .*, expected"):
        store(tmp_path / "run", other, folder / "profile.json")
