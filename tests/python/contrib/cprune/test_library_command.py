# SPDX-License-Identifier: Apache-2.0
"""The command that lists, exports and imports the library of programs."""

import json

import pytest
from commands import run_cprune
from programs import measured_table

from tvm.contrib.cprune.program_library import import_tables
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import CPruneError


def test_commands_list_export_and_import(tuned, tmp_path):
    table = measured_table(*tuned("direct 3x3"))
    table.save(tmp_path / "table.json")
    library = ["--library", str(tmp_path / "lib")]
    empty = run_cprune("library", "export", *library, str(tmp_path / "out"))
    assert empty.returncode == 1 and "no programs" in empty.stderr
    assert "1 program" in run_cprune("library", "import", *library, str(tmp_path / "table.json")).stdout
    assert "1 program, 2 threads, cold weights" in run_cprune("library", "list", *library).stdout
    run_cprune("library", "export", *library, str(tmp_path / "out"))
    assert run_cprune("library", "export", *library, str(tmp_path / "out")).returncode == 1
    (exported,) = (tmp_path / "out").glob("*.json")
    assert TaskTable.load(exported) == TaskTable.load(tmp_path / "table.json")
    off = run_cprune("library", "list", "--library", "none")
    assert off.returncode == 1 and "--library" in off.stderr


def test_tables_of_an_earlier_format_are_named_and_left_out(tuned, tmp_path):
    measured_table(*tuned("direct 3x3")).save(tmp_path / "table.json")
    library = ["--library", str(tmp_path / "lib")]
    run_cprune("library", "import", *library, str(tmp_path / "table.json"))
    (path,) = (tmp_path / "lib").glob("*.json")
    data = json.loads(path.read_text())
    for name, changed in (("format", {"format": 4}), ("version", {"tvm": "0.1"})):
        (tmp_path / "lib" / f"old-{name}.json").write_text(json.dumps({**data, **changed}))
    listed = run_cprune("library", "list", *library)
    assert listed.returncode == 0 and "1 program, " in listed.stdout
    assert "old-format.json has format 4" in listed.stdout
    assert "old-version.json: 1 program, " in listed.stdout
    exported = run_cprune("library", "export", *library, str(tmp_path / "out"))
    assert exported.returncode == 1 and "1 of 3 files were not exported" in exported.stderr
    assert {item.name for item in (tmp_path / "out").iterdir()} == {path.name, "old-version.json"}


def test_an_import_with_a_bad_file_stores_nothing(tuned, tmp_path):
    measured_table(*tuned("direct 3x3")).save(tmp_path / "good.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(CPruneError, match=r"bad\.json is not a task table"):
        import_tables(tmp_path / "lib", [tmp_path / "good.json", tmp_path / "bad.json"])
    assert not (tmp_path / "lib").exists()
