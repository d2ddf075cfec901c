# SPDX-License-Identifier: Apache-2.0
"""Files of a run, which are repaired, and files of users, which are only read."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvm.contrib.cprune.building.object_cache import ObjectCache
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.files import partial_path, remove_partial_files
from tvm.contrib.cprune.measuring.context import RecordContext
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.program_store import ProgramStore
from tvm.contrib.cprune.tuning.autotvm import search
from tvm.contrib.cprune.types import CPruneError


def ansor_record(key: str, cost: float) -> str:
    program = [[json.dumps([key]), "llvm", [], "", 2, []], [[], []]]
    return json.dumps({"i": program, "r": [[cost], 0, 1, 1], "v": "v0.6"})


AUTOTVM_RECORD = json.dumps(
    {
        "input": ["llvm", "dense", [], {}],
        "config": {"index": 0, "code_hash": None, "entity": []},
        "result": [[1.0], 0, 1, 1],
        "version": 0.2,
    }
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o444)
    return path


def test_a_profile_without_a_final_newline_is_read_completely_and_never_written(tmp_path):
    text = ansor_record("a", 2.0) + "\n" + ansor_record("b", 1.0)
    profile = write(tmp_path / "profile" / "profile.json", text)
    context = RecordContext("llvm", 1, False, "here")
    context.save(profile.parent)
    store = ProgramStore(None, None, tmp_path / "run", context, profile)  # type: ignore[arg-type]
    assert store.best('["b"]').latency.median == 1.0
    assert profile.read_text() == text


def test_transferred_records_are_read_completely_and_never_written(tmp_path):
    records = write(tmp_path / "transfer.json", AUTOTVM_RECORD)
    config = TuneConfig(transfer=str(records))
    assert len(search._transfer_records(config.transfer)) == 1
    assert records.read_text() == AUTOTVM_RECORD


def test_an_incomplete_last_line_is_ignored_in_a_foreign_file_and_removed_from_a_log(tmp_path):
    text = ansor_record("a", 2.0) + "\n"
    path = tmp_path / "search.json"
    path.write_text(text + ansor_record("b", 1.0)[:40])
    assert [record.workload_key for record in RecordLog.read(path).measured] == ['["a"]']
    assert path.read_text() != text
    assert len(RecordLog(path).measured) == 1
    assert path.read_text() == text


def test_unreadable_records_are_refused(tmp_path):
    with pytest.raises(CPruneError, match="cannot read the records in"):
        RecordLog.read(tmp_path / "none.json")
    path = write(tmp_path / "damaged.json", "nonsense\n" + ansor_record("a", 2.0))
    with pytest.raises(CPruneError, match="not a record of auto_scheduler or AutoTVM"):
        RecordLog.read(path)


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "build" / "objects").mkdir(parents=True)
    kept, partial = tmp_path / "build" / "part-a.o", partial_path(tmp_path / "build" / "objects" / "b.o")
    kept.touch()
    partial.touch()
    remove_partial_files(tmp_path)
    assert kept.exists() and not partial.exists()


def test_an_object_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """A power loss must not leave an empty file that the next build links."""
    path, synced, fsync = tmp_path / "a.o", [], os.fsync

    def record(descriptor: int) -> None:
        assert not path.exists()
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    module = SimpleNamespace(save=lambda name: Path(name).write_bytes(b"object"))
    ObjectCache(tmp_path)._save(module, path)
    assert path.read_bytes() == b"object"
    assert synced == [path.stat().st_ino]
    assert list(tmp_path.iterdir()) == [path]
